"""In front of any API: the same wire, a shorter history, and the original request whenever anything of ours fails."""
