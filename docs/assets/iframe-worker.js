// A browser starts no Worker in a page that was opened from a file. There, this runs the worker's script in a frame, so
// that the search works without a server.
(() => {
  if (location.protocol !== "file:") return;
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      this.frame.owner = this;
      const script = new URL(url, document.baseURI).href;
      this.frame.srcdoc =
        "<script>const owner = frameElement.owner;" +
        "window.postMessage = (data) => setTimeout(() => owner.receive(data));</script>" +
        `<script src="${script}"></script><script>owner.start();</script>`;
      document.documentElement.append(this.frame);
    }
    receive(data) {
      const event = new MessageEvent("message", { data });
      if (this.onmessage) this.onmessage(event);
      this.dispatchEvent(event);
    }
    start() {
      const waiting = this.waiting;
      this.waiting = null;
      waiting.forEach((data) => this.postMessage(data));
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
})();
