"""The words of captions, English and Chinese, for everything that a scene can show."""

from __future__ import annotations

SUBJECT_EN: dict[str, tuple[str, ...]] = {
    "cat": ("cat", "cat", "kitten"),
    "lion": ("lion",),
    "swan": ("swan",),
    "fish": ("fish",),
    "house": ("house", "house", "cottage"),
    "tree": ("tree",),
    "flower": ("flower",),
    "star": ("star",),
    "heart": ("heart",),
    "circle": ("circle", "circle", "ball"),
    "square": ("square",),
    "triangle": ("triangle",),
    "person": ("person", "person", "man", "woman", "girl", "boy"),
}
SUBJECT_ZH: dict[str, tuple[str, ...]] = {
    "cat": ("猫", "小猫", "小猫", "猫咪"),
    "lion": ("狮子", "狮子", "雄狮"),
    "swan": ("天鹅",),
    "fish": ("鱼", "小鱼"),
    "house": ("房子", "小屋"),
    "tree": ("树", "大树"),
    "flower": ("花", "花朵"),
    "star": ("星星", "五角星"),
    "heart": ("爱心", "心形"),
    "circle": ("圆形", "圆"),
    "square": ("方形", "正方形"),
    "triangle": ("三角形",),
    "person": ("人", "小人", "女孩", "男孩"),
}
MEASURE_ZH: dict[str, tuple[str, ...]] = {
    "cat": ("一只",),
    "lion": ("一只", "一头"),
    "swan": ("一只",),
    "fish": ("一条", "一只"),
    "house": ("一座", "一个"),
    "tree": ("一棵",),
    "flower": ("一朵",),
    "star": ("一颗", "一个"),
    "heart": ("一颗", "一个"),
}
COLOUR_EN: dict[str, tuple[str, ...]] = {"gray": ("gray", "grey")}
COLOUR_ZH: dict[str, tuple[str, ...]] = {
    "red": ("红色", "红"),
    "orange": ("橙色", "橘色"),
    "yellow": ("黄色", "黄"),
    "green": ("绿色", "绿"),
    "cyan": ("青色",),
    "blue": ("蓝色", "蓝"),
    "purple": ("紫色",),
    "pink": ("粉色", "粉红色"),
    "brown": ("棕色", "褐色"),
    "white": ("白色", "白"),
    "gray": ("灰色",),
    "black": ("黑色", "黑"),
}
SCENE_EN: dict[str, tuple[str, ...]] = {
    "garden": ("in the garden", "in a garden", "sitting in the garden", "on the grass"),
    "night": ("in the night sky", "under the night sky", "at night", "under the stars"),
    "beach": ("on the beach", "at the beach", "by the sea"),
}
SCENE_ZH: dict[str, tuple[str, ...]] = {
    "garden": ("坐在花园里", "在花园里", "站在花园里", "在草地上"),
    "night": ("在夜空下", "在夜空中", "夜晚", "星空下"),
    "beach": ("在海滩上", "在沙滩上", "在海边"),
}
POSITION_EN: dict[str, tuple[str, ...]] = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "on the top"),
    "bottom": ("at the bottom", "on the bottom"),
}
POSITION_ZH: dict[str, tuple[str, ...]] = {
    "center": ("在中间", "在中央"),
    "left": ("在左边", "在左侧"),
    "right": ("在右边", "在右侧"),
    "top": ("在上面", "在上方"),
    "bottom": ("在下面", "在下方"),
}
SIZE_EN: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium",),
    "large": ("large", "big", "huge"),
}
# "小猫" is simply a word for cat, so size words here are never a bare 小.
SIZE_ZH: dict[str, tuple[str, ...]] = {
    "small": ("小小的", "很小的"),
    "medium": ("中等的",),
    "large": ("大大的", "很大的", "巨大的"),
}
POSE_EN: dict[str, str] = {
    "standing": "standing",
    "waving": "waving",
    "arms up": "with arms up",
    "walking": "walking",
    "jumping": "jumping",
}
POSE_ZH: dict[str, str] = {
    "standing": "站着",
    "waving": "挥手",
    "arms up": "举起双手",
    "walking": "走路",
    "jumping": "跳跃",
}
FILLER_EN = ("cute", "beautiful", "majestic", "elegant", "lovely", "nice", "simple", "happy")
FILLER_ZH = ("可爱的", "威武的", "优雅的", "美丽的", "漂亮的")
QUALITY_EN = (
    "4k", "8k", "high quality", "masterpiece", "best quality", "highly detailed", "cartoon",
    "flat illustration", "digital art",
)  # fmt: skip
QUALITY_ZH = ("高质量", "高清", "4k", "高质量图像", "杰作", "插画", "精美")
OPENING_EN = ("a picture of", "a drawing of", "an image of", "a photo of")
OPENING_ZH = ("画", "生成", "一张图片")
