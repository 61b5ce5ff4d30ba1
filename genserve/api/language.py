"""Which language a caller is answered in, and our own short texts in both.

The words of errors are in `genserve/texts/`; here are the parts of speech that fill their
`{problem}` and `{problems}`: what was wrong with a field or a body.
"""

from genserve.errors import Language

WORDS: dict[str, dict[Language, str]] = {
    "required": {"en": "{field}: is required", "zh": "{field}：必填"},
    "unknown_field": {"en": "{field}: is not a field", "zh": "{field}：没有这个字段"},
    "unknown_field_near": {
        "en": "{field}: is not a field; did you mean {near}?",
        "zh": "{field}：没有这个字段；您是否要用 {near}？",
    },
    "empty": {"en": "{field}: must not be empty", "zh": "{field}：不能为空"},
    "too_long": {
        "en": "{field}: must have at most {limit} characters",
        "zh": "{field}：最多 {limit} 个字符",
    },
    "too_many": {
        "en": "{field}: must have at most {limit} entries",
        "zh": "{field}：最多 {limit} 项",
    },
    "whole_number": {"en": "{field}: must be a whole number", "zh": "{field}：必须是整数"},
    "number": {"en": "{field}: must be a number", "zh": "{field}：必须是数字"},
    "text": {"en": "{field}: must be a text", "zh": "{field}：必须是字符串"},
    "boolean": {"en": "{field}: must be true or false", "zh": "{field}：必须是 true 或 false"},
    "list": {"en": "{field}: must be a list", "zh": "{field}：必须是列表"},
    "object": {"en": "{field}: must be an object", "zh": "{field}：必须是对象"},
    "time": {
        "en": "{field}: must be a time as 2030-01-31T12:00:00Z",
        "zh": "{field}：必须是形如 2030-01-31T12:00:00Z 的时间",
    },
    "past": {"en": "{field}: must lie in the future", "zh": "{field}：必须是将来的时间"},
    "least": {"en": "{field}: must be at least {limit}", "zh": "{field}：不能小于 {limit}"},
    "most": {"en": "{field}: must be at most {limit}", "zh": "{field}：不能大于 {limit}"},
    "between": {
        "en": "{field}: must be between {low} and {high}",
        "zh": "{field}：必须在 {low} 到 {high} 之间",
    },
    "one_of": {"en": "{field}: must be one of {choices}", "zh": "{field}：必须是 {choices} 之一"},
    "bad_text": {
        "en": "{field}: must not hold NUL or unpaired surrogate characters",
        "zh": "{field}：不能包含 NUL 或不成对的代理字符",
    },
    "not_for_mode": {
        "en": "{field}: mode {mode} does not take it",
        "zh": "{field}：模式 {mode} 不使用该参数",
    },
    "only_beside": {
        "en": "{field}: counts only beside {other}",
        "zh": "{field}：仅在提供 {other} 时有效",
    },
    "only_canny": {
        "en": "{field}: only a canny map made by preprocess takes it",
        "zh": "{field}：仅适用于由 preprocess 生成的 canny 控制图",
    },
    "thresholds": {
        "en": "{field}: must not be above high_threshold",
        "zh": "{field}：不能大于 high_threshold",
    },
    "scale_or_size": {
        "en": "{field}: give either scale or width and height",
        "zh": "{field}：scale 与 width、height 只能给出其一",
    },
    "wrong": {"en": "{field}: is not acceptable", "zh": "{field}：无法接受"},
    "not_json": {
        "en": "not valid JSON at line {line}, column {column}",
        "zh": "第 {line} 行第 {column} 列不是有效的 JSON",
    },
    "not_utf8": {"en": "not UTF-8 text", "zh": "不是 UTF-8 文本"},
    "not_an_object": {"en": "must be a JSON object", "zh": "必须是 JSON 对象"},
    "bad_number": {
        "en": "NaN, Infinity and huge numbers are not JSON",
        "zh": "含有 NaN、Infinity 或过大的数字",
    },
    "too_deep": {
        "en": "nested deeper than {limit} levels",
        "zh": "嵌套超过 {limit} 层",
    },
    "too_many_values": {"en": "holds too many values", "zh": "包含的值过多"},
    "given_twice": {"en": "{field} is given twice", "zh": "{field} 重复出现"},
    "bad_form": {"en": "the form cannot be read", "zh": "无法读取表单"},
    "not_a_form": {
        "en": "must be a form (multipart/form-data or application/x-www-form-urlencoded)",
        "zh": "必须是表单（multipart/form-data 或 application/x-www-form-urlencoded）",
    },
    "use_upload": {
        "en": "must be JSON; forms go to POST /generate/upload",
        "zh": "必须是 JSON；表单请使用 POST /generate/upload",
    },
    "not_base64": {"en": "is not valid base64", "zh": "不是有效的 base64"},
    "wrong_type": {
        "en": "the data URI is of type {type}; PNG, JPEG and WebP are accepted",
        "zh": "data URI 的类型为 {type}；仅支持 PNG、JPEG 和 WebP",
    },
    "key_header": {
        "en": "Idempotency-Key: must have 1 to 255 printable ASCII characters",
        "zh": "Idempotency-Key：必须为 1 到 255 个可打印的 ASCII 字符",
    },
}


def say(language: Language, text: str, /, **names: object) -> str:
    """One of our texts in `language`."""
    return WORDS[text][language].format_map(names)


def preferred_language(accept_language: str | None, default: Language) -> Language:
    """English or Chinese as an Accept-Language header (RFC 9110 §12.5.4) prefers.

    Without the header, and where it leaves the choice to us, `default`; where it names only other
    languages, English.
    """
    if not accept_language:
        return default
    best: tuple[float, Language] = (0.0, "en")
    for item in accept_language.split(","):
        tag, _, parameter = item.strip().partition(";")
        weight = _weight(parameter)
        primary = tag.strip().casefold().partition("-")[0]
        language: Language | None = "zh" if primary == "zh" else "en" if primary == "en" else None
        if primary == "*":
            language = default
        if language is not None and weight > best[0]:
            best = (weight, language)
    return best[1]


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
