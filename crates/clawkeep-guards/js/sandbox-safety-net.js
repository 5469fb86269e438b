// sandbox-safety-net: an unhandled rejection of a library known to be harmless (mDNS, in a sandbox that has
// no network to announce on) does not end the gateway process. Every other rejection, every exception,
// every other process and process.exit keep the behaviour that Node and the agent give them.
//
// It looks at the event before any listener does, because the agent's own listener exits. It adds no
// listener, so whatever counts listeners, Node's default included, sees no difference.

const BENIGN = /[\\/]node_modules[\\/](@homebridge[\\/]ciao|bonjour(?:-service|-hap)?|multicast-dns)[\\/]/;

/**
 * Where the error was thrown: its first frame in a file that is not Node's own. That the stack was read shows
 * in one place: Node's report of a crash then quotes no source line above the error.
 */
function origin(error) {
  const message = String(error.message);
  const stack = String(error.stack);
  const at = stack.indexOf(message);
  const frames = (at < 0 ? stack : stack.slice(at + message.length)).split('\n');
  return frames.find((line) => /^\s+at .*[\\/]/.test(line) && !/\(?node:/.test(line)) ?? '';
}

/** The harmless library that the rejection comes from, or nothing. */
function benign(reason) {
  try {
    // ciao rejects with a bare string when its own work is cancelled.
    if (typeof reason === 'string' && /^CIAO (PROBING|ANNOUNCEMENT) CANCELLED$/.test(reason)) return '@homebridge/ciao';
    if (!(reason instanceof Error)) return undefined;
    if (reason.code === 'ERR_SYSTEM_ERROR' && reason.info?.syscall === 'uv_interface_addresses') {
      return 'os.networkInterfaces()';
    }
    return BENIGN.exec(origin(reason))?.[1];
  } catch {
    return undefined;
  }
}

guard('sandbox-safety-net', (role) => {
  if (role !== 'openclaw-gateway') return;
  const tell = throttled();
  const { emit } = process;
  const watched = function (event, reason, second) {
    const rejected =
      event === 'unhandledRejection' || (event === 'uncaughtException' && second === 'unhandledRejection');
    const library = rejected ? benign(reason) : undefined;
    if (library === undefined) return Reflect.apply(emit, this, arguments);
    tell(`[sandbox-safety-net] unhandled rejection of ${library} does not end the gateway: ${reason.message ?? reason}`);
    return true;
  };
  Object.defineProperty(process, 'emit', { value: watched, writable: true, configurable: true });
  say('[sandbox-safety-net] loaded (openclaw-gateway)');
});
