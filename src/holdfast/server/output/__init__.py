"""The way from generated tokens to what a wire sends. Start with `OutputProcessor` in processor.py.

stop_texts.py ends an answer at a text; tool_parser/ finds reasoning and tool calls, a file for each syntax of calls.
(Token ids become text in engine/detokenizer.py, which answers without a server use too.)
"""
