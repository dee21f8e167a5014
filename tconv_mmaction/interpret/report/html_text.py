"""Texts from outside as they may stand in HTML: file names and labels hold anything."""
import html
import json
import math


def escaped(text: object) -> str:
    """For HTML text and double-quoted attributes. Surrogates of undecodable file names become '?'."""
    return html.escape(str(text).encode('utf-8', 'replace').decode('utf-8'))


def script_json(data: object) -> str:
    """JSON that cannot end or open an element when it stands inside <script>; NaN and infinity are null."""
    def finite(value):
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    text = json.dumps(finite(data), allow_nan=False)  # ASCII only
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')
