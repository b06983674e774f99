// A service for a test: started on a free port with a home of its own, killed, started again.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class Service {
  constructor({ flags = [], environment = {} } = {}) {
    this.home = mkdtempSync(join(tmpdir(), "hublab-browser-"));
    Object.assign(this, { flags, environment });
  }

  async start() {
    this.port ??= await freePort();
    this.url = `http://127.0.0.1:${this.port}/`;
    const { HOME: _, ...rest } = process.env;
    const clean = Object.fromEntries(Object.entries(rest).filter(([name]) => !/^(HUBLAB_|XDG_)/.test(name)));
    this.child = spawn(process.env.HUBLAB, ["serve", "--port", String(this.port), ...this.flags], {
      env: { ...clean, HOME: this.home, ...this.environment },
      stdio: ["ignore", "ignore", "pipe"],
    });
    let said = "";
    this.child.stderr.on("data", (data) => (said += data));
    for (let tries = 0; tries < 300; tries++) {
      try {
        if ((await fetch(`${this.url}health`)).ok) return this;
      } catch {
        // Not yet.
      }
      if (this.child.exitCode !== null) break;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`the service did not start: ${said}`);
  }

  /** As a power failure would. */
  async kill() {
    if (!this.child || this.child.exitCode !== null || this.child.signalCode) return;
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }

  async end() {
    await this.kill();
    rmSync(this.home, { recursive: true, force: true });
  }
}
