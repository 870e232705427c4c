"""The way from generated tokens to what a wire sends. Start with `OutputProcessor` in processor.py.

stop_texts.py ends an answer at a text. (Token ids become text in engine/detokenizer.py, and text becomes reasoning and
calls in transcript/tool_parser/, which answers without a server use too.)
"""
