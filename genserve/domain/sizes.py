"""Sizes of files as people read them."""


def in_words(size_bytes: int) -> str:
    """As "33.7 GB": decimal units, as the hub and disks are sold by."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
