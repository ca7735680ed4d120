"""Text in any script: the characters that a line of text and a code may contain."""

import re
from typing import Final
from unicodedata import normalize

from service.web.validation import wrong

CONTROLS: Final = r"\x00-\x1F\x7F-\x9F\u2028\u2029\u202A-\u202E\u2066-\u2069"
"""Control characters, line and paragraph separators, and characters that override or isolate the writing direction."""

FORMATS: Final = (
    r"\x00-\x20\x7F-\xA0\xAD\u061C\u1680\u180E\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uE000-\uF8FF\uFDD0-\uFDEF"
    r"\uFEFF\uFFF0-\uFFFB\uFFFE\uFFFF"
)
"""Characters that are not letters, marks, digits, punctuation or symbols: controls, spaces, formats and private use."""

BLANKS: Final = r"\u034F\u115F\u1160\u17B4\u17B5\u180B-\u180F\u2800\u3164\uFE00-\uFE0F\uFFA0"
"""Invisible letters, marks and symbols: fillers, variation selectors and the empty Braille pattern."""

FORMATS_BEYOND: Final = (
    r"\uD800-\uDFFF\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E00FF"
    r"\U000E01F0-\U0010FFFF"
)
BLANKS_BEYOND: Final = r"\U0001D159\U000E0100-\U000E01EF"
"""The same beyond the Basic Multilingual Plane. No JSON Schema pattern for these characters suits every validator."""

ACTOR_CHARACTERS: Final = 200

LINE_PATTERN: Final = f"^[^{CONTROLS}]*[^{FORMATS}{BLANKS}][^{CONTROLS}]*$"
CODE_PATTERN: Final = f"^[^{FORMATS}]+(?: [^{FORMATS}]+)*$"
GROUP_PATTERN: Final = f"^ *[^,{FORMATS}]+(?: [^,{FORMATS}]+)* *$"
SOURCED_ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._~:@-]*$"
EXTERNAL_ID_PATTERN: Final = rf"^\.*[^.{FORMATS}][^{FORMATS}]*$"

_CONTROL: Final = re.compile(f"[{CONTROLS}]")
_NOT_IN_ACTOR: Final = re.compile(rf"[{CONTROLS}\uD800-\uDFFF]")
_SOURCED_ID: Final = re.compile(SOURCED_ID_PATTERN.strip("^$"))
_VISIBLE: Final = re.compile(f"[^{FORMATS}{BLANKS}{FORMATS_BEYOND}{BLANKS_BEYOND}]")
_CODE: Final = re.compile(f"[^{FORMATS}{FORMATS_BEYOND}]+(?: [^{FORMATS}{FORMATS_BEYOND}]+)*")


def check_line(text: str) -> str:
    """Return a line of text; raise if it has a forbidden character, or no visible character."""
    if _CONTROL.search(text):
        sentence = (
            "{field} must be one line of text, without control characters and characters that override its direction."
        )
        raise wrong("forbidden_character", sentence)
    if not _VISIBLE.search(text):
        raise wrong("blank", "{field} must contain a visible character.")
    return text


def normalize_code(text: str, max_length: int) -> str:
    """Return a code in Unicode's normal form C, in which each text has one spelling.

    A code consists of letters, marks, digits, punctuation and symbols of any script, with single spaces inside. Callers
    must limit the length of the text first: long texts take a long time to normalize.
    """
    text = normalize("NFC", text)
    if len(text) > max_length:
        raise wrong("too_long", f"{{field}} must have at most {max_length} characters in Unicode's normal form C.")
    if not _CODE.fullmatch(text):
        sentence = "{field} must consist of letters, marks, digits, punctuation and symbols, with single spaces inside."
        raise wrong("forbidden_character", sentence)
    if not _VISIBLE.search(text):
        raise wrong("blank", "{field} must contain a visible character.")
    return text


def normalize_external_id(text: str, max_length: int) -> str:
    """Return an external id in normal form C: a code without spaces and not only dots, because it is part of paths."""
    text = normalize_code(text, max_length)
    if " " in text or not text.strip("."):
        raise wrong("forbidden_character", "{field} must not contain spaces and must not consist of dots alone.")
    return text


def normalize_group(text: str, max_length: int) -> str:
    """Return the name of a group in normal form C, without spaces around it: a code without commas."""
    text = normalize_code(text.strip(" "), max_length)
    if "," in text:
        raise wrong("forbidden_character", "{field} must not contain commas.")
    return text


def check_sourced_id(text: str) -> str:
    """Return a sourced id; raise if it has a character that not every program can take."""
    if not _SOURCED_ID.fullmatch(text):
        sentence = "{field} must consist of A-Z, a-z, 0-9 and . _ ~ : @ - and begin with a letter or a digit."
        raise wrong("forbidden_character", sentence)
    return text


def normalize_actor(text: str) -> str | None:
    """Return the value of X-Actor in normal form C, or None if it is not one line of 1 to 200 characters in UTF-8."""
    if len(text) > ACTOR_CHARACTERS:
        return None
    text = normalize("NFC", text)
    # aiohttp reads a byte that is not UTF-8 as a surrogate.
    valid = len(text) <= ACTOR_CHARACTERS and _VISIBLE.search(text) and not _NOT_IN_ACTOR.search(text)
    return text if valid else None
