// A method in short, such as toca:cycle=4:ratio=0.9, from what its controls hold. `parts` is
// [[name, [[field, default, optional], ...]], ...]: one part, or several that work together.
window.ditaShort = (parts, values) => {
  let next = 0;
  return parts.map(([name, fields]) => {
    const said = [name];
    for (const [field, unset, optional] of fields) {
      const held = values[next++];
      const value = typeof held === "string" ? held.trim() : held;
      const empty = value === null || value === undefined || value === "";
      if (empty ? optional && unset === null : value === unset) continue;
      if (!empty) said.push(`${field}=${value}`);
    }
    return said.join(":");
  }).join("+");
};

// [the method in short, what the choice above it shows] of controls that hold `values`, after which comes the short form
// as it stands. Controls also tell of being drawn: then nothing changes, as something else may be typed meanwhile. Only
// what controls wrote goes back to `form`, for which they were drawn, when they are put back as they were.
window.ditaControls = (parts, drawn, form, values) => {
  const text = values.pop();
  const unchanged = { __type__: "update" };
  const short = window.ditaShort(parts, values);
  if (short === window.ditaShort(parts, drawn)) return [window.ditaWritten.has(text) ? form : unchanged, unchanged];
  window.ditaWritten.add(short);
  return [short, "custom"];
};
window.ditaWritten = new Set();

// Clips play in step: what is done to one is done to all that are as long.
(() => {
  let leading = null;
  const others = (clip) => [...document.querySelectorAll("video.dita-clip")].filter(
    (other) => other !== clip && Math.abs(other.duration - clip.duration) < 0.05);
  const follow = (event) => {
    const clip = event.target;
    if (!(clip instanceof HTMLVideoElement) || !clip.classList.contains("dita-clip")) return;
    if (leading && leading !== clip) return;
    leading = clip;
    for (const other of others(clip)) {
      other.playbackRate = clip.playbackRate;
      if (Math.abs(other.currentTime - clip.currentTime) > 0.06) other.currentTime = clip.currentTime;
      if (clip.paused && !other.paused) other.pause();
      if (!clip.paused && other.paused) other.play().catch(() => {});
    }
    setTimeout(() => { leading = null; }, 120);
  };
  for (const kind of ["play", "pause", "seeked", "ratechange", "loadeddata"]) document.addEventListener(kind, follow, true);
})();

// Puts the settings into the page's address and, where the browser lets it, into the clipboard; returns what is said.
window.ditaLink = async (names, values, [copied, shown]) => {
  const link = new URL(window.location.href);
  names.forEach((name, n) => {
    if (values[n] === null || values[n] === undefined) link.searchParams.delete(name);
    else link.searchParams.set(name, values[n]);
  });
  history.replaceState(null, "", link);
  try {
    await navigator.clipboard.writeText(link.href);
    return copied;
  } catch {
    return shown;
  }
};
