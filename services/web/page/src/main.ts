/* The page's composition root: the one place where the real address, sockets and timers come in. */
import "./app/app.ts";
import { Connection, browserPorts } from "./wire/connection.ts";
import { Gateway } from "./wire/gateway.ts";

const gateway = new Gateway(location.href);
const app = document.createElement("apex-app");
Object.assign(app, { gateway, connection: new Connection(gateway.streamUrl, browserPorts) });
document.body.prepend(app);
