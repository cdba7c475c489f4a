"Everything here comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=("=",), comment_prefixes=("#",), inline_comment_prefixes=None)
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def lines(key): return [line.strip() for line in cfg[key].splitlines() if line.strip()]


setup(
    name=cfg["name"], version=cfg["version"], description=cfg["description"], author=cfg["author"],
    license=cfg["license"], keywords=cfg["keywords"],
    long_description=(here / "README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"] + ".*"]),
    package_data={cfg["lib_name"]: ["configs/*/*", "templates/*", "bundled/*"]},  # lightweight/configs is a link to configs/: the defaults work without a checkout
    python_requires=">=" + cfg["min_python"],
    install_requires=lines("requirements"),
    extras_require={key.removesuffix("_requirements"): lines(key) for key in cfg if key.endswith("_requirements")},
    entry_points={"console_scripts": lines("console_scripts")},
)
