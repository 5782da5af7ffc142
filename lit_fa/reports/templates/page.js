// The page is complete without this: it opens what a link points into, and sorts a table by a click on a column's title.
const open = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", open);
addEventListener("load", () => location.hash && open());
addEventListener("beforeprint", () => document.querySelectorAll("details.more").forEach((node) => { node.open = true; }));
for (const head of document.querySelectorAll("table.comparison thead th:not(.picture)")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[head.cellIndex].textContent.trim();
    const number = (text) => { const value = parseFloat(text.replace("±", "")); return isNaN(value) ? null : value; };
    const order = (a, b) => {
      const [x, y] = [number(a), number(b)];
      if (x === null || y === null) return x === y ? a.localeCompare(b) : x === null ? 1 : -1;
      return x - y;
    };
    const rows = [...body.rows].sort((a, b) => order(key(a), key(b)) * (down ? -1 : 1));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
