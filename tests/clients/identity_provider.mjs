// An OpenID provider on loopback, which issues access tokens as RFC 9068 describes them. It is for tests and for trying.
//
// Usage: node identity_provider.mjs [PORT]. It prints the settings of the service. The client "portal" with the secret
// "secret" gets tokens with the scopes that it asks for.

import { createServer } from "node:http";
import Provider from "oidc-provider";

const AUDIENCE = "https://enrollment.example";
const SCOPES = "read enroll manage override events admin";

const server = createServer();
server.listen(Number(process.argv[2] ?? 0), "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "portal",
        client_secret: "secret",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        token_endpoint_auth_method: "client_secret_post",
      },
    ],
    scopes: SCOPES.split(" "),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => AUDIENCE,
        getResourceServerInfo: () => ({
          scope: SCOPES,
          audience: AUDIENCE,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  server.on("request", provider.callback());
  console.log(`export TOKEN_ISSUER=${issuer} TOKEN_AUDIENCE=${AUDIENCE} TOKEN_KEYS_URL=${issuer}/jwks`);
});
