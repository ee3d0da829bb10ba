"""Docstrings as the reference's parser of them expects: ``Examples:``, and no ``::``."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Code under ``Example:`` is shown as code; a literal block is introduced by a colon."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)::$", ":", text)
