// The same functions as benchmarks/app.py has, on TypeScript's SDK.
import { Inngest } from "inngest";
import { connect } from "inngest/connect";

const client = new Inngest({ id: "app" });

const make = (id, handler) =>
  client.createFunction({ id, triggers: [{ event: id }] }, handler);

await connect({
  apps: [
    {
      client,
      functions: [
        make("noop", async () => 1),
        make("step", async ({ step }) => step.run("one", async () => 1)),
        make("sync", () => 1),
        make("echo", async ({ event }) => event.data.payload),
      ],
    },
  ],
});
