// How the image is looked at: opacity of the labels, brightness, contrast, smooth or crisp pixels, the zoom shown in
// per cent. Nothing of it changes what is stored.

const STORE = "clinic.looks";
const SLIDERS = ["fill", "brightness", "contrast"];

export class Looks {
  // `part(name)` finds the controls; the zoom is shown where the page has a place for it.
  constructor(view, part) {
    Object.assign(this, { view, part });
    for (const id of SLIDERS) part(id).addEventListener("input", () => this.change());
    part("smooth").addEventListener("change", () => this.change());
    part("looks-reset").addEventListener("click", () => this.reset());
    view.moved = () => this.showZoom();
    this.restore();
    this.apply();
  }

  // A page inside another site's may have no storage.
  restore() {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(STORE)) ?? {};
    } catch {
      kept = {};
    }
    for (const id of SLIDERS) if (Number.isFinite(kept[id])) this.part(id).value = kept[id];
    if (typeof kept.smooth === "boolean") this.part("smooth").checked = kept.smooth;
  }

  change() {
    this.apply();
    const kept = { ...Object.fromEntries(SLIDERS.map((id) => [id, Number(this.part(id).value)])), smooth: this.part("smooth").checked };
    try {
      localStorage.setItem(STORE, JSON.stringify(kept));
    } catch {
      // Then they hold until the page is closed.
    }
  }

  reset() {
    for (const id of SLIDERS) this.part(id).value = this.part(id).defaultValue;
    this.part("smooth").checked = true;
    this.change();
  }

  toggleSmooth() {
    this.part("smooth").checked = !this.part("smooth").checked;
    this.change();
  }

  apply() {
    const { part, view } = this, [fill, brightness, contrast] = SLIDERS.map((id) => Number(part(id).value));
    for (const id of SLIDERS) part(`${id}-value`).textContent = `${part(id).value} %`;
    view.canvases.image.style.filter = brightness === 100 && contrast === 100 ? "" : `brightness(${brightness}%) contrast(${contrast}%)`;
    view.look(part("smooth").checked, fill / 100);
  }

  showZoom() {
    const place = this.part("zoom");
    if (place) place.textContent = `${Math.round(100 * this.view.scale).toLocaleString("en")} %`;
  }
}
