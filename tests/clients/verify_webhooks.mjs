// Verify messages with the npm package standardwebhooks: node verify_webhooks.mjs MESSAGES, a file of [secret, headers, body] rows.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

for (const [secret, headers, body] of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  let result;
  try {
    result = new Webhook(secret).verify(body, headers).type;
  } catch (error) {
    result = error.name;
  }
  console.log(result);
}
