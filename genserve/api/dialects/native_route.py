"""The route class of every native route: errors as the users' document shows them, in Chinese
unless Accept-Language prefers English."""

from typing import Any

from genserve.api.dialects.native_answers import render_error
from genserve.api.errors import dialect_route

NativeRoute: Any = dialect_route(render_error, default_language="zh")
