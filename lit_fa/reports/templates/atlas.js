// Search and filters of the atlas. The texts of all rows are read once.
{
  const form = document.querySelector("form.filters");
  const rows = [...document.getElementById("atlas").tBodies[0].rows].map((row) => ({
    row, text: row.textContent.toLowerCase(), cells: [...row.cells].slice(0, 3).map((cell) => cell.textContent.trim().replace(/, federated$/, "")),
  }));
  const narrow = () => {
    const words = document.getElementById("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...form.querySelectorAll("select")].map((select) => [Number(select.dataset.column), select.value]);
    const flags = ["measured", "contradicted"].filter((name) => document.getElementById(name).checked);
    let shown = 0;
    for (const { row, text, cells } of rows) {
      const fits = words.every((word) => text.includes(word)) && chosen.every(([i, value]) => !value || cells[i] === value)
        && flags.every((name) => row.dataset[name] === "1");
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("shown").textContent = `${shown} of ${rows.length} cells`;
  };
  form.hidden = false;
  form.addEventListener("input", narrow);
  form.addEventListener("submit", (event) => event.preventDefault());
  narrow();
}
