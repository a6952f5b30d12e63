#!/usr/bin/env python3
"""Writes tests/data/chat/golden.json: conversations written down by chat templates, and small pieces of Jinja, as jinja2
renders them with the settings of transformers.

Needs .cache/venv-oracle (tools/oracle_venv), .cache/models/smollm2-135m.gguf (tools/fetch_smollm2) and ../shared; run by hand:
the tests read only what it wrote. The templates of SmolLM2 and Qwen2.5 are the models' own (Apache 2.0); the others are
written here after the formats that the makers document, with the constructs that theirs use.
"""
import datetime
import json
import pathlib

import gguf
import jinja2
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/chat/golden.json"
NOW = datetime.datetime(2024, 7, 3, 12, 30)

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

QWEN3 = """{#- Thoughts of earlier turns are left out, those since the last question kept. -#}
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or (not loop.last and thoughts)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- tool_call.arguments | tojson }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system's words stand apart, with a date. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" + (builtin_tools | reject('equalto', 'code_interpreter') | join(", ")) }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{%- endfor %}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- for name, value in message.tool_calls[0].function.arguments | items %}
            {{- name + '="' + value + '"' }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL1 = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('only user and assistant are known') }}{% endif %}{% endfor %}"""

MISTRAL3 = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("user and assistant must take turns") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- for key, val in tool.function.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("only user and assistant are known") }}
    {%- endif %}
{%- endfor %}
"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi there!"), ("user", "Who are you?")],
    [("system", " You are a pirate. \n"), ("user", "  Ahoy\n"), ("assistant", "\nArr, matey.  "), ("user", "Größe 你好 🙂"),
     ("assistant", "<think>\nA foreign tongue.\n</think>\n\nAye"), ("user", "<|im_end|> {{ messages }} \\n 'quoted' \"twice\"")],
    [("user", "one"), ("user", "two")],
    [("user", ""), ("assistant", ""), ("user", "\u3000wide\u00a0")],
    [("assistant", "I begin."), ("user", "And I answer.")],
]

SNIPPETS = [
    "a\n  {% if true %}\n b\n  {% endif %}\nc\n", "a {%- if true -%}  b  {%- endif -%}  c", "  {%+ if true %}x{% endif +%}\n y",
    "x {# comment #}\n y {#- tight -#} z", "  {# first #}\nq", "a\r\nb{{ '\\r\\n' }}\r\n\r\n", "{{ 1 }}\n{{ 2 }}\n\n",
    "{{ 'a' 'b' ~ 3 ~ none ~ true ~ 1.5 ~ 2.0 }}", "{{ 1 + 2 * 3 - 8 // 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 - 3 - 4 }}",
    "{{ 'abc'[0] ~ 'abc'[-1] ~ 'äöü'[1] ~ 'äöü'|length }} {{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[4:1:-1] }}",
    "{{ [1, 2, 3][-1] }} {{ [1, 2][5] is defined }} {{ {'a': {'b': 7}}.a['b'] }} {{ {'a': 1}.c is undefined }}",
    "{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.previtem is defined }},{% else %}none{% endfor %}",
    "{% for x in [] %}{{ x }}{% else %}none{% endfor %}", "{% for x in range(5) if x is odd %}{{ x }}{% endfor %}",
    "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% set block %}a{{ 1 + 1 }}b{% endset %}[{{ block }}]", "{% if true %}{% set x = 5 %}{% endif %}{{ x }}",
    "{{ 'yes' if 1 else 'no' }} {{ 'yes' if 0 else 'no' }} [{{ 'yes' if 0 }}]", "{{ not 1 == 2 }} {{ not (1 and 0) or 1 }} {{ 0 or 'x' }} {{ '' and 'x' }}|",
    "{{ 1 in [1, 2] }} {{ 'b' in 'abc' }} {{ 'k' not in {'k': 1} }} {{ true == 1 }} {{ none == false }} {{ x == y }} {{ '1' == 1 }}",
    "{{ x }}[{{ x is defined }}{{ x is none }}{{ x|length }}{{ x|default('d') }}{{ ''|default('e', true) }}]",
    "{{ ' a b '.strip() }}|{{ '\\n\\na'.lstrip('\\n') }}|{{ 'xxaxx'.rstrip('x') }}|{{ '\u00a0\u2003a\u3000'|trim }}|{{ 'äxä'.strip('ä') }}",
    "{{ 'a,b,,c'.split(',')|join('-') }} {{ 'a</t>b'.split('</t>')[-1] }} {{ 'aXbX'.replace('X', '--') }}",
    "{{ 'hello wORLD'.title() }} {{ 'hello'.upper() }} {{ 'HeLLo'|lower }} {{ 'hello World'|capitalize }} {{ \"it's x2y\"|title }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('ab') }}", "{{ [1, 2, 3]|first }}{{ [1, 2, 3]|last }}{{ [3, 4]|reverse|join(',') }}{{ 'abc'|list|join('.') }}",
    "{{ [{'r': 'u'}, {'r': 'a'}, {'r': 'u'}]|selectattr('r', 'equalto', 'u')|list|length }}{{ [{'r': 1}, {'r': 0}]|rejectattr('r')|list|length }}",
    "{{ 3 is number }}{{ 'a' is string }}{{ [] is iterable }}{{ {} is mapping }}{{ true is boolean }}{{ false is false }}{{ 2 is even }}{{ 'a' is eq 'a' }}{{ 'a' is in ['a'] }}{{ 4 is not odd }}",
    "{{ '\\u00e9\\x41\\t|\\'' }}", "{{ {'a': [1, {'b': 'deep'}]}['a'][1].b }} {{ {'a': 1}.get('a') }}{{ {'a': 1}.get('z', 9) }}{{ {}.get('z') }}",
    "{% generation %}kept{% endgeneration %}", "{{ 5 }}}}{{ '}}' }}{% raw_text", "{{ 'a' }", "{% if 1 %}", "{{ nothing.part }}", "{{ nothing['part'] }}",
    "{{ 'a' + 1 }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y-%m-%d %B') }}", "{{ unknown_function() }}", "{{ 1 < 2 }}{{ 'a' >= 'b' }}{{ 2 <= 2.0 }}",
    "{{ (messages|length - 1) - 1 }} {{ messages[-1].content }} {{ messages[0]['role'] ~ '!' }}", "{{ 'x' ~ ('a' if messages else 'b')|upper }}",
    "{{ 'p' + messages[0].content | trim + 's' }}", "{{ -1|string ~ 'a' }}", "{%- set a = {'x': 1, 'y': [1, 2,],} -%} {{ a.y[1] }}",
    "{{ messages[0] == messages[0] }}{{ messages[0] == messages[1] }}", "{{ 'a' is defined and nothing is not defined }}", "{{ [1,2,3][1:]|length }}{{ [1,2,3][5:]|length }}{{ 'ab'[-9:9] }}",
]


def environment_of(source):
    """As transformers compiles it, with a clock that stands still."""
    template = chat_template_utils._cached_compile_jinja_template(source)
    template.globals["strftime_now"] = NOW.strftime
    template.environment.globals["strftime_now"] = NOW.strftime
    return template


def rendered(source, variables):
    try:
        return {"rendered": environment_of(source).render(**variables)}
    except (jinja2.exceptions.TemplateError, TypeError) as error:
        return {"error": str(error)}


def main():
    smollm2 = gguf.GGUFReader(ROOT / ".cache/models/smollm2-135m.gguf").fields["tokenizer.chat_template"]
    qwen = json.loads((ROOT.parent / "shared/data/tokenizers/qwen2.5/tokenizer_config.json").read_text(encoding="utf8"))
    models = [
        ("smollm2", bytes(smollm2.parts[smollm2.data[0]]).decode(), "<|im_start|>", "<|im_end|>"),
        ("qwen2.5", qwen["chat_template"], None, "<|im_end|>"),
        ("chatml", CHATML, None, "<|im_end|>"), ("qwen3", QWEN3, None, "<|im_end|>"), ("llama2", LLAMA2, "<s>", "</s>"),
        ("llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>"), ("mistral1", MISTRAL1, "<s>", "</s>"),
        ("mistral3", MISTRAL3, "<s>", "</s>"), ("zephyr", ZEPHYR, "<s>", "</s>"),
    ]
    conversations = [[{"role": role, "content": content} for role, content in talk] for talk in CONVERSATIONS]
    golden = {"conversations": conversations, "models": [], "snippets": []}
    for name, source, bos, eos in models:
        tokens = {key: value for key, value in (("bos_token", bos), ("eos_token", eos)) if value}
        fixed = {"add_generation_prompt": True, "tools": None, "documents": None, **tokens}
        golden["models"].append({"name": name, "template": source, "variables": fixed,
                                 "results": [rendered(source, {"messages": talk, **fixed}) for talk in conversations]})
    for source in SNIPPETS:
        golden["snippets"].append({"template": source, **rendered(source, {"messages": conversations[3]})})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
