// ciao-network-guard: os.networkInterfaces() is total. Where the sandbox refuses what getifaddrs(3) needs
// (netlink), Node throws; @homebridge/ciao does not expect that, and the gateway dies of it. The answer is
// then the loopback device alone, which in an empty network namespace is also the truth.

guard('ciao-network-guard', (role) => {
  const os = require('node:os');
  const real = os.networkInterfaces;
  const tell = throttled();
  os.networkInterfaces = function networkInterfaces() {
    try {
      return real.call(os);
    } catch (error) {
      let why = 'unknown error';
      try {
        why = String(error.message);
      } catch {
        // An error without a readable message still gets its answer.
      }
      tell(`[guard] ciao-network-guard: os.networkInterfaces() failed, answering loopback only: ${why}`);
      return {
        lo: [
          {
            address: '127.0.0.1',
            netmask: '255.0.0.0',
            family: 'IPv4',
            mac: '00:00:00:00:00:00',
            internal: true,
            cidr: '127.0.0.1/8',
          },
        ],
      };
    }
  };
  require('node:module').syncBuiltinESMExports();
  if (role) say(`[guard] ciao-network-guard loaded (${role})`);
});
