// A page with a recording in it, or that of a running proxy.
import {showLive} from "./live.js";
import {showRecording} from "./recording.js";

const held = document.getElementById("data");
if (held) showRecording(JSON.parse(held.textContent)); else showLive();
