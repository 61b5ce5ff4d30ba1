"""Noise schedulers by the names that users of other tools type.

The canonical names are lower case with underscores; every dialect and the pipelines use this one
table. "Scheduler" here always means the noise scheduler, as in diffusers.
"""

ALIASES: dict[str, str] = {
    "euler": "euler",
    "flow_euler": "euler",
    "flow_match_euler": "euler",
    "flowmatcheulerdiscretescheduler": "euler",
    "simple": "euler",
    "heun": "heun",
    "flow_heun": "heun",
    "flow_match_heun": "heun",
    "flowmatchheundiscretescheduler": "heun",
}


def canonical_scheduler(name: str) -> str:
    """The canonical name of a scheduler, or the name itself, folded, when no alias knows it."""
    folded = name.strip().lower().replace(" ", "_").replace("-", "_")
    return ALIASES.get(folded, folded)
