/* The page's composition root: the one place where the real address, sockets and timers come in. */
import "./app/app.ts";
import { Connection, Gateway, webPorts } from "../../client/src/index.ts";
import { Token } from "./wire/token.ts";

const token = new Token(sessionStorage);
if (token.take(location.hash)) history.replaceState(null, "", "#/"); // not to be seen, copied or kept in the history
const gateway = new Gateway(location.href, () => token.value);
const app = document.createElement("apex-app");
const connection = new Connection(gateway.streamUrl, webPorts, { credential: () => ({ token: token.value }) });
Object.assign(app, { gateway, connection, token });
document.body.prepend(app);
