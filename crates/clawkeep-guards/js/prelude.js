'use strict';
// What every guard begins with; the build puts it before each of them, so that each file stands alone.
//
// A guard is loaded with `node --require` before any code of the agent. It never throws, patches once even
// when required twice (from the read-only mount and from /tmp), and says so on the receipt pipe.

const fs = require('node:fs');
const { isMainThread } = require('node:worker_threads');

const STATE = Symbol.for('clawkeep.guards');
const QUIET_MS = 5 * 60 * 1000;

function say(line) {
  try {
    fs.writeSync(2, `${line.replace(/[\x00-\x1f\x7f]+/g, ' ').slice(0, 500)}\n`);
  } catch {
    // A closed or full stderr must not end the process.
  }
}

/** Says a message at once, then at most every five minutes with the number of those it kept back. */
function throttled() {
  let last = -Infinity;
  let suppressed = 0;
  return (message) => {
    const now = Date.now();
    if (now >= last && now - last < QUIET_MS) {
      suppressed += 1;
      return;
    }
    say(suppressed > 0 ? `${message} (${suppressed} more since the last line)` : message);
    last = now;
    suppressed = 0;
  };
}

/**
 * What this process is. The gateway: our supervisor says so (CLAWKEEP_PROCESS=openclaw-gateway), or the
 * first word after the script that is no option is `gateway` and the next argument is `run`, an option or
 * nothing. `gateway` with another subcommand is a launcher. Everything else, and every worker: neither.
 */
function roleOf(argv, env) {
  if (!isMainThread) return '';
  if (env.CLAWKEEP_PROCESS === 'openclaw-gateway') return 'openclaw-gateway';
  const args = argv.slice(2);
  // The one global option of OpenClaw that takes a value in a word of its own.
  const at = args.findIndex((arg, i) => !arg.startsWith('-') && args[i - 1] !== '--profile');
  if (at < 0 || args[at] !== 'gateway') return '';
  const next = args[at + 1];
  return next === undefined || next === 'run' || next.startsWith('-') ? 'openclaw-gateway' : 'launcher';
}

/** The receipt pipe, if the environment names one. Children must not take it for theirs. */
function takeReceipt(env) {
  const fd = Number(env.CLAWKEEP_RECEIPT_FD);
  const left = Number(env.CLAWKEEP_RECEIPT_GUARDS);
  delete env.CLAWKEEP_RECEIPT_FD;
  delete env.CLAWKEEP_RECEIPT_GUARDS;
  if (!isMainThread || !Number.isInteger(fd) || fd < 3 || !(left > 0)) return null;
  try {
    // Anything but a pipe under that number is somebody else's: the variable was inherited, the fd was not.
    return fs.fstatSync(fd).isFIFO() ? { fd, left } : null;
  } catch {
    return null;
  }
}

function sharedState() {
  if (!process[STATE]) {
    const role = roleOf(process.argv, process.env);
    delete process.env.CLAWKEEP_PROCESS;
    const value = { role, receipt: takeReceipt(process.env), loaded: new Set() };
    Object.defineProperty(process, STATE, { value });
  }
  return process[STATE];
}

function report(state, name, file) {
  const { receipt } = state;
  if (!receipt) return;
  if (file) {
    const digest = require('node:crypto').createHash('sha256').update(fs.readFileSync(file)).digest('hex');
    fs.writeSync(receipt.fd, `${JSON.stringify({ digest, kind: 'guard', name })}\n`);
  }
  receipt.left -= 1;
  if (receipt.left > 0) return;
  state.receipt = null;
  fs.closeSync(receipt.fd);
}

/** Installs a guard once; reports it only when it is in force. */
function guard(name, install) {
  try {
    const state = sharedState();
    if (state.loaded.has(name)) return;
    state.loaded.add(name);
    let file = __filename;
    try {
      install(state.role);
    } catch (error) {
      file = null;
      say(`[guard] ${name} could not be installed: ${error}`);
    }
    report(state, name, file);
  } catch {
    // No receipt: the supervisor refuses readiness.
  }
}

