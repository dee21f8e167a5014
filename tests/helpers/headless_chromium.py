"""Chromium without a window for tests of pages, driven by its DevTools protocol over a pipe: no package is needed."""
import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome', 'headless_shell')
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--mute-audio',
         '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
         '--hide-scrollbars', '--remote-debugging-pipe')


def find_chromium():
    """Path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page of one browser. ``errors`` holds what its console complained about, ``requests`` the URLs it asked for.

    Args:
        profile: an empty folder.
        timeout: seconds that any single answer may take.
    """

    def __init__(self, profile, timeout=60):
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()

        def pipes_at_3_and_4():
            first, second = os.dup(to_browser), os.dup(from_browser)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, f'--user-data-dir={profile}', 'about:blank'], pass_fds=(3, 4),
            preexec_fn=pipes_at_3_and_4, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._timeout, self._count, self._buffer, self._session = timeout, 0, b'', None
        self._events, self.errors, self.requests = set(), [], []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _read(self):
        """The next message; events are noted on the way."""
        deadline = time.monotonic() + self._timeout
        while b'\0' not in self._buffer:
            ready = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))[0]
            data = os.read(self._answers, 1 << 20) if ready else b''
            if not data:
                raise RuntimeError(f'chromium {"ended" if ready else "does not answer"} (code {self._process.poll()})')
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b'\0')
        message = json.loads(message)
        name, values = message.get('method'), message.get('params', {})
        self._events.add(name)
        if name == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(values['exceptionDetails']))
        elif name == 'Runtime.consoleAPICalled' and values['type'] in ('error', 'warning', 'assert'):
            self.errors.append(json.dumps(values['args']))
        elif name == 'Log.entryAdded' and values['entry']['level'] in ('error', 'warning'):
            self.errors.append(values['entry']['text'])
        elif name == 'Network.requestWillBeSent':
            self.requests.append(values['request']['url'])
        return message

    def call(self, method, **params):
        self._count += 1
        command = dict(id=self._count, method=method, params=params)
        if self._session:
            command['sessionId'] = self._session
        os.write(self._commands, json.dumps(command).encode() + b'\0')
        while True:
            message = self._read()
            if message.get('id') == self._count:
                if 'error' in message:
                    raise RuntimeError(f'{method}: {message["error"]}')
                return message['result']

    def open(self, path, width=1280, height=900):
        """Load a file in a window of that size."""
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._events.discard('Page.loadEventFired')
        self.call('Page.navigate', url=path.as_uri())
        while 'Page.loadEventFired' not in self._events:
            self._read()

    def run(self, expression):
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{expression}: {result["exceptionDetails"]}')
        return result['result'].get('value')

    def press(self, key, code):
        """A key, as a user presses it."""
        for kind in ('rawKeyDown', 'keyUp'):
            self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self):
        """PNG of what the window shows."""
        return base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])
