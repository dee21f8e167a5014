// Search in a site that is opened from disk. Browsers start no worker from a file: address, and the theme's search is
// one. Here an invisible frame stands for the worker: its script runs there, and messages go to and fro as events.
// (The theme's own stand-in is fetched from another host, which a reader on a train does not have. The theme leaves it
// out if a script with this file's name is listed under extra.polyfills.)
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      document.body.append(frame);
      this.scope = frame.contentWindow;
      this.scope.postMessage = data => this.dispatchEvent(new MessageEvent('message', {data}));
      const script = this.scope.document.createElement('script');
      script.src = new URL(url, document.baseURI);
      this.ready = new Promise((loaded, failed) => {
        script.onload = loaded;
        script.onerror = () => failed(new Error(`${script.src} could not be read`));
      });
      this.scope.document.body.append(script);
    }

    postMessage(data) {
      this.ready.then(() => this.scope.dispatchEvent(new MessageEvent('message', {data})));
    }
  };
}
