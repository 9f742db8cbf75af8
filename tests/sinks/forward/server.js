// FluentServer of @fluent-org/logger, an implementation of Fluent Forward that is not ours. Options as JSON in the first
// argument; says {"port": N}, then each entry as a line of JSON, and ends when its standard input does.
const fs = require("fs");
const {FluentServer} = require("@fluent-org/logger");

const options = JSON.parse(process.argv[2]);
for (const key of ["cert", "key", "ca"]) {
  if (options.tlsOptions && options.tlsOptions[key]) {
    options.tlsOptions[key] = fs.readFileSync(options.tlsOptions[key]);
  }
}

const say = value => process.stdout.write(JSON.stringify(value) + "\n");
const plain = value => {
  if (value instanceof Uint8Array) return {bin: Buffer.from(value).toString("base64")};
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, of]) => [name, plain(of)]));
  }
  return value;
};

const server = new FluentServer(options);
server.on("entry", (tag, time, record) => say([tag, time.epoch, time.nano, plain(record)]));
server.listen().then(() => say({port: server.port || 0}));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
