// usage: HOSTS='{"login.microsoftonline.com:443":"127.0.0.1:8443"}' node --import ./hosts.mjs …
//
// Leads connections to other places, below the libraries, which keep their own HTTP clients and see the real names. To a name that
// is not listed there is no way.

import net from "node:net";

const hosts = JSON.parse(process.env.HOSTS);
const connect = net.Socket.prototype.connect;

net.Socket.prototype.connect = function (...args) {
  // Node's own callers hand over the normalized arguments, an array of options and callback.
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  const place = hosts[`${options.host}:${options.port}`];
  if (!place) {
    process.nextTick(() => this.destroy(new Error(`no way to ${options.host}:${options.port} from here`)));
    return this;
  }
  const [host, port] = place.split(":");
  Object.assign(options, { host, port: Number(port), lookup: undefined });
  return connect.apply(this, args);
};
