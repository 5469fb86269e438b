
// private-tmp: in a sandbox that has no /tmp of its own, TMPDIR names its directory for temporary files, and the
// host's /tmp is closed to it. OpenClaw says "/tmp" for the directory of its locks whatever TMPDIR says, and resolves
// it with realpath(3): for that, /tmp is TMPDIR. And it takes /tmp/openclaw where access(2) says that it is writable:
// that goes by owner and mode, and does not know what Landlock refuses. There the answer is no.

/** A worker that is given an environment of its own loads no guard from it: one of those that lock has an empty one. */
function reachWorkers(own) {
  const threads = require('node:worker_threads');
  const Real = threads.Worker;
  threads.Worker = class Worker extends Real {
    constructor(file, options) {
      const env = options?.env;
      if (env && typeof env === 'object' && !env.NODE_OPTIONS) {
        const execArgv = [...(options.execArgv ?? process.execArgv), '--require', __filename];
        super(file, { ...options, env: { ...env, TMPDIR: own }, execArgv });
      } else {
        super(file, options);
      }
    }
  };
}

guard('private-tmp', () => {
  const own = process.env.TMPDIR;
  if (!own || !own.startsWith('/')) throw new Error('TMPDIR names no directory');
  const resolve = fs.realpathSync.native;
  fs.realpathSync.native = function native(path, options) {
    return resolve.call(fs.realpathSync, path === '/tmp' ? own : path, options);
  };
  const access = fs.accessSync;
  fs.accessSync = function accessSync(path, mode) {
    if (path === '/tmp/openclaw') {
      const error = new Error(`EACCES: permission denied, access '${path}'`);
      throw Object.assign(error, { errno: -13, code: 'EACCES', syscall: 'access', path });
    }
    return access.call(fs, path, mode);
  };
  reachWorkers(own);
  require('node:module').syncBuiltinESMExports();
});
