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

// [the method in short, what the choice above it shows] of controls that hold `values`; as they were drawn, for `form`,
// they change neither.
window.ditaControls = (parts, drawn, form, values) => {
  const choice = values.pop();
  const short = window.ditaShort(parts, values);
  return short === window.ditaShort(parts, drawn) ? [form, choice] : [short, "custom"];
};

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
