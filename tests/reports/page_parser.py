"""A page as a browser's parser sees it, without a browser: balanced tags, ids, links, text by element."""

from functools import cached_property
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
CLOSED = {
    "path",
    "use",
    "g",
    "image",
    "rect",
    "circle",
    "polyline",
    "mspace",
}  # of SVG and MathML, which may close themselves


class Page(HTMLParser):
    """Raises on a tag that is not closed where it should be."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict]] = []
        self.inside: dict[str, list[tuple[str, dict]]] = {}  # id of a cell -> the elements below it
        self.links: list[tuple[str, str, list[str]]] = []  # href, text, classes of what holds it
        self.commands: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"an attribute twice in <{tag}>"
        self.elements.append((tag, attributes))
        for _, holder in self.open:
            if holder.get("id", "").startswith("cell-"):
                self.inside.setdefault(holder["id"], []).append((tag, attributes))
        if tag == "a":
            held = [name for _, holder in self.open for name in holder.get("class", "").split()]
            self.links.append((attributes["href"], "", held))
        if tag == "pre" and attributes.get("class") == "command":
            self.commands.append("")
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag, attrs):
        assert tag in CLOSED | VOID, f"<{tag}/> does not close itself in HTML"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        opened, _ = self.open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if not {"style", "script"} & set(tags):
            self.words.append(data)
        if "a" in tags:
            href, text, held = self.links[-1]
            self.links[-1] = (href, text + data, held)
        if "pre" in tags and dict(self.open[tags.index("pre")][1]).get("class") == "command":
            self.commands[-1] += data

    @cached_property
    def text(self) -> str:
        return "".join(self.words)

    @cached_property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]
