// The first script of Prefect's UI here: whoever is not logged in goes to log-in.html, and comes
// back to the page that was asked for.
if (!localStorage.getItem("prefect-password")) {
  const page = location.pathname + location.search;
  location.replace("/log-in.html#" + new URLSearchParams({ page }));
}

// A click on a list's button reaches Prefect twice: it opens the list and closes it again. The frame
// around the button takes the click once.
document.head.insertAdjacentHTML(
  "beforeend",
  "<style>.p-select-button__control { pointer-events: none }</style>",
);
