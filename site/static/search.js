// Excerpts of the pages found are fetched, which a browser refuses to a page that was opened as a file.
"use strict";
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  document.getElementById("search-results")?.insertAdjacentHTML("beforebegin", "<p class='note'>Opened as a file, so without "
    + "excerpts: <code>python -m http.server</code> in this folder serves the pages with them.</p>");
}
