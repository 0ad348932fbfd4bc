// A classic script, so that it also runs where modules do not: from the file system, and in old browsers.
"use strict";
(function () {
  var status = document.getElementById("status");
  if (location.protocol === "file:") {
    status.textContent = "A browser cannot run this page from a file. Serve the folder: nas serve FOLDER";
  } else if (!("noModule" in HTMLScriptElement.prototype)) {
    status.textContent = "This browser is too old for this page. Update it, or use a newer phone.";
  }
})();
