"""What mkdocs asks for while it builds: the pages that are made of the code, and that no page asks another host.

https://www.mkdocs.org/user-guide/configuration/#hooks
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

_LOADED: Final = re.compile(
    r"""
      <(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?P<src>(?:https?:)?//[^"'\s>]+)
    | <link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))
      [^>]*\bhref=["']?(?P<href>(?:https?:)?//[^"'\s>]+)
    """,
    re.VERBOSE,
)
"""What a browser gets by itself from another host, to show a page."""


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and the picture to what is in docs/."""
    from mkdocs.structure.files import File

    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # reference.py; this fusetune
    import architecture
    from reference import pages

    for path, text in {**pages(), architecture.PICTURE: architecture.picture()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table of the parts where a page has its place."""
    import architecture

    return markdown.replace(architecture.PLACE, architecture.table())


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that a browser cannot show without asking another host."""
    from mkdocs.exceptions import PluginError

    for found in asked(output):
        raise PluginError(f"{page.file.src_path} loads {found} from another host; keep it in docs/")
    return output


def asked(html: str) -> list[str]:
    """The addresses on other hosts that a browser gets to show a page."""
    return [found["src"] or found["href"] for found in _LOADED.finditer(html)]
