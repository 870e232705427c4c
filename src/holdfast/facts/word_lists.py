"""Word lists: what tells a file name or a folder from prose, and words that look like a literal and are none."""

from __future__ import annotations


def words_of(text: str) -> frozenset[str]:
    """Splits a list that is written as one string."""
    return frozenset(text.split())


DIRS = words_of(
    "api app apps assets bin build client cmd config data dev dist docs etc examples feat feature fix hooks include "
    "internal js lib libs main migrations node_modules origin packages pkg public release resources scripts server "
    "src static test tests tools upstream usr var vendor web"
)
"""First folders of a path: `src/app` is one, `read/write` is not."""

EXTENSIONS = words_of(
    "bak bash bat bin bz2 c cc cfg cjs clj cmake conf cpp crt cs css csv cts db dll dockerfile exe exs feather "
    "gguf gif go gradle gz h hpp hs htm html ico ini ipynb jar java jpeg jpg js json jsonc jsonl jsx kt less lock "
    "log lua md mdx mjs mk mp4 mts npy npz odt onnx parquet patch pdf pem php pickle pkl png pony prisma proto "
    "ps1 pt py pyc pyi pyx r rb rs rst safetensors scala scss sh so sql sqlite sqlite3 svelte svg swift tar tf "
    "tgz tmp toml traj ts tsv tsx ttf txt vue wasm wav webp whl woff woff2 xls xlsx xml yaml yml zig zip zsh "
)
"""Of file names; `map`, `key` and `part` are left out, as code has more `items.map` than `app.map`."""

DOMAINS = words_of("ai app co com de dev edu gov io net org uk us")

NOT_NAMES = words_of(
    "javascript typescript github gitlab sqlite mysql postgresql openai macos ios ipad iphone youtube linkedin "
    "graphql nodejs node.js vue.js next.js postgres mongodb latex devops ebay wifi fastapi openhands websocket "
    "stackoverflow chatgpt langchain pytorch tensorflow numpy vscode intellij powershell wordpress "
    "and/or utf-8 utf-16 sha-1 sha-256 iso-8601 gpt-4 gpt-3 __init__ __name__ __main__ "
    "print() main() get() set() close() open() strip() split() lower() upper() items() keys() values() append() "
    "self this true false null none string number boolean object array void async await return"
)
"""In lower case."""

STRUCTURE = words_of(
    "arguments array bash boolean code command content data default description enum error false file_path file_text "
    "function id input integer items key message name new_str number object old_str output parameters path pattern "
    "properties query required result role string system text title tool tool_calls true type url user utf-8 value view"
)
"""Strings that only hold the JSON of calls and schemas together."""

EDITOR = words_of("view create str_replace insert undo_edit")
"""What an editing tool has as its `command`."""

IMPERATIVES = words_of(
    "add answer apply ask build call change check commit convert copy create delete deploy do drop ensure explain "
    "find fix follow give go implement install keep leave let list mail make mark measure merge move name open pin "
    "prefer print push put read refactor reject remove rename replace report return revert run save send set show "
    "sort split start stop store switch take tell test treat try turn update use verify wait write"
)
"""A user's sentence that begins with one of these asks for something."""
