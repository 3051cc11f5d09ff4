// Creates a container and prints an account SAS, both signed with the account's key as Azure's reference says.
// usage: node prepare.js ENDPOINT ACCOUNT KEY CONTAINER
const { createHmac } = require("node:crypto");
const [endpoint, account, key, container] = process.argv.slice(2);
const sign = (text) =>
  createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
const version = "2021-12-02";

async function createContainer() {
  const date = new Date().toUTCString();
  // "Authorize with Shared Key": the account stands in the path a second time because it is part of the URL's path.
  const resource = `/${account}/${account}/${container}\nrestype:container`;
  const signature = sign(`PUT${"\n".repeat(12)}x-ms-date:${date}\nx-ms-version:${version}\n${resource}`);
  const answer = await fetch(`${endpoint}/${container}?restype=container`, {
    method: "PUT",
    headers: {
      "x-ms-date": date,
      "x-ms-version": version,
      authorization: `SharedKey ${account}:${signature}`,
    },
  });
  if (answer.status !== 201 && answer.status !== 409) {
    throw new Error(`${answer.status}: ${await answer.text()}`);
  }
}

// "Create an account SAS": everything of the blob service, for a long time.
function accountSas() {
  const [permissions, expiry] = ["rwdlac", "2100-01-01T00:00:00Z"];
  const text = [account, permissions, "b", "sco", "", expiry, "", "", version, "", ""].join("\n");
  const query = { sv: version, ss: "b", srt: "sco", sp: permissions, se: expiry, sig: sign(text) };
  return new URLSearchParams(query).toString();
}

createContainer().then(
  () => console.log(accountSas()),
  (error) => {
    console.error(String(error), error.cause ? String(error.cause) : "");
    process.exit(1);
  },
);
