"""Express the training prompt as a chat template, so that chat programs send the text that the model was trained on."""

from typing import Any

# Every tag strips the whitespace around it ("-"), so that only text between "{{" and "}}" reaches the model.
FRAME = """\
{%- set conversation -%}
  {%- set opening = namespace(text="") -%}
  {%- for message in messages -%}
    {%- if message["role"] == "system" and loop.first -%}
      {%- set opening.text = message["content"] + "\\n\\n" -%}
    {%- elif message["role"] == "user" -%}
      {%- set instruction = opening.text + message["content"] -%}
      {%- set opening.text = "" -%}
      {{- PROMPT -}}
    {%- elif message["role"] == "assistant" -%}
      {{- message["content"] -}}
      {%- if eos_token is defined and eos_token is not none -%}
        {{- eos_token -}}
      {%- endif -%}
    {%- else -%}
      {{- raise_exception("a message must be of user or assistant, the first may be of system; here is one of "
        + message["role"]) -}}
    {%- endif -%}
  {%- endfor -%}
{%- endset -%}
{%- if bos_token is defined and bos_token is not none -%}
  {{- bos_token + GAP -}}
{%- endif -%}
{{- conversation -}}
"""
NO_GAP = '""'
SPACE_WHERE_NONE_IS = '(" " if conversation and not conversation.startswith(" ") else "")'


def build_chat_template(template: str, tokenizer: Any) -> str:
    """Build the Jinja chat template, for this Hugging Face tokenizer, of a prompt with `{instruction}`, then
    `{response}`.

    A user message becomes the text before the response, an assistant message the response and the end token. A first
    system message is put before the following instruction, with an empty line between. The user's message ends where
    the response begins, so `add_generation_prompt` changes nothing.
    Errors: when rendered, jinja2's TemplateError for a message of another role.
    """
    fixed_texts = template.removesuffix("{response}").split("{instruction}")
    # Jinja reads string literals like Python. As raw text, its own signs would be tags and "\r\n" would become "\n".
    prompt = " + instruction + ".join(map(ascii, fixed_texts))
    gap = SPACE_WHERE_NONE_IS if _is_prefix_sensitive(tokenizer) else NO_GAP
    return FRAME.replace("GAP", gap).replace("PROMPT", prompt)


def _is_prefix_sensitive(tokenizer: Any) -> bool:
    """Return whether a text after a written-out bos is tokenized differently than alone, as in training.

    CodeLlama's tokenizers treat a word at the beginning of the whole text as if a space preceded it.
    """
    if tokenizer.bos_token is None:
        return False
    alone, after_bos = (tokenizer.encode(text, add_special_tokens=False) for text in ("a", f"{tokenizer.bos_token}a"))
    return after_bos != [tokenizer.bos_token_id, *alone]
