"""The training prompt as a chat template, so that programs which know only messages send what the model was taught."""

from typing import Any

# Every tag strips the layout around it ("-"), so that only what is between "{{" and "}}" reaches the model.
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


def chat_template(template: str, tokenizer: Any) -> str:
    """The Jinja chat template, for this Hugging Face tokenizer, of a prompt with `{instruction}`, then `{response}`.

    A message of the user becomes the text before the response, one of the assistant the response and the token that
    ends it. A first message of the system is put ahead of the instruction that follows, with an empty line between.
    The user's message ends where the response begins, so `add_generation_prompt` changes nothing.
    Errors: when it is rendered, jinja2's TemplateError for a message of another role.
    """
    fixed_texts = template.removesuffix("{response}").split("{instruction}")
    # Jinja reads string literals as Python does. Raw, its own signs would be tags and "\r\n" would become "\n".
    prompt = " + instruction + ".join(map(ascii, fixed_texts))
    gap = SPACE_WHERE_NONE_IS if _bos_hides_the_beginning(tokenizer) else NO_GAP
    return FRAME.replace("GAP", gap).replace("PROMPT", prompt)


def _bos_hides_the_beginning(tokenizer: Any) -> bool:
    """Whether a text is encoded in another way after a written-out bos than alone, as it is in training.

    Tokenizers of CodeLlama mark a word at the beginning of the whole text as if a space stood before it.
    """
    if tokenizer.bos_token is None:
        return False
    alone, after_bos = (tokenizer.encode(text, add_special_tokens=False) for text in ("a", f"{tokenizer.bos_token}a"))
    return after_bos != [tokenizer.bos_token_id, *alone]
