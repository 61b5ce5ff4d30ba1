"""What a server that has become ready tells the person who started it."""

import json
import shlex

from genserve.config import DEFAULT_API_KEY

PROMPT = "a red cat on a blue background"
STEPS = 20


def banner(
    url: str, *, default_key: bool, key_names: list[str], stand_in: str | None, can_draw: bool
) -> str:
    """The lines to print. No secret is among them: the default key is in the documents.

    `key_names`: names of declared keys; `stand_in`: the shipped model that draws while no real one
    is installed; `can_draw`: there is any model that can.
    """
    lines = [
        "",
        f"GenServe is ready at {url}",
        f"  API documentation  {url}/docs",
        f"  state              {url}/health",
    ]
    if stand_in is not None:
        lines += [f"  no real model is installed: {stand_in} draws small, simple pictures instead"]
    if not can_draw:
        lines += ["", "No model is installed yet. Put one into the models folder and start again:"]
        return "\n".join([*lines, "GET /models and the README say where.", ""])
    how = "Draw a first picture:"
    if not default_key:
        named = f", as the one named {json.dumps(key_names[0])}" if key_names else ""
        how = f"Draw a first picture, with one of your keys{named}:"
    return "\n".join([*lines, "", how, "", curl(url, default_key=default_key), ""])


def curl(url: str, *, default_key: bool) -> str:
    """One line that draws a picture into cat.png when it is pasted into a shell."""
    body = {"prompt": PROMPT, "num_inference_steps": STEPS}
    words = [
        "curl",
        "-fsS",
        f"{url}/generate",
        "-H",
        f"Authorization: Bearer {DEFAULT_API_KEY if default_key else 'YOUR_API_KEY'}",
        "-H",
        "Accept: image/png",
        "-H",
        "Content-Type: application/json",
        "-d",
        json.dumps(body),
        "-o",
        "cat.png",
    ]
    return shlex.join(words)
