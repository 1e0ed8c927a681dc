// Azuresim runs a simulated Azure Confidential VM for an agent, a demo or a test that is another
// process.
//
// Its documentation in package simulator says what is simulated, and how strictly. Everything it
// makes dies with it: a second azuresim is another VM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/keyagent/keyagent/simulator"
)

const usage = `Usage: azuresim --dir D [--tee sev-snp|tdx] [--verbose]

Serves a simulated Azure Confidential VM on loopback and its TPM on the Unix
socket D/tpm.sock, until it is interrupted. It is ready once it has written
D/azuresim.json (addresses and ids); D/keyagent.yaml is an agent's configuration
for this VM, with endpoints on loopback for keyagent exec, and a rule for the user
who started azuresim. When it stops, the VM is lost with its TPM. The files stay, but for
azuresim.json; the next start in D is another VM. An agent's state that it finds
in D/state belongs to the lost one's TPM, and is moved to D/state.old-N.
With --tee tdx the VM has Intel TDX, and D/collateral is what Intel says about
its platform for 30 days.
D/event_log is the log of what the VM's firmware and boot loaders have measured;
D/policy.yaml is a policy for keyagent verify that trusts this VM's evidence.

Example:
  azuresim --dir /tmp/sim &
  until test -e /tmp/sim/azuresim.json; do sleep 0.1; done
  keyagent serve --config /tmp/sim/keyagent.yaml &
  until test -S /tmp/sim/agent.sock; do sleep 0.1; done
  keyagent token --socket /tmp/sim/agent.sock --identity vm --resource https://vault.azure.net

keyagent key and cert, as below, use this VM's TPM after
  export KEYAGENT_CONFIG=/tmp/sim/keyagent.yaml

The tenant has two applications: app-fic trusts the VM's user-assigned identity,
app-cert waits for a certificate. The control endpoint, whose address is
"control" in D/azuresim.json, has an authority that issues one, and lets the
application trust what the authority issues to a subject:
  CONTROL=$(jq -r .control D/azuresim.json)
  CONTROL=$(sed -n 's/^ *"control": "\(.*\)",$/\1/p' D/azuresim.json)  # without jq
  keyagent key create app && keyagent key csr app --subject CN=app --out app.csr
  curl --data-binary @app.csr $CONTROL/authority >app.cer
  keyagent cert import app --file app.cer
  curl --data-binary @D/app-ca.pem "$CONTROL/applications/app-cert/trusted?subject=app"
A certificate that is merely uploaded (/applications/app-cert/certificates) is
good for assertions; over mutual TLS it gets AADSTS392189, unless the
application has plain_certificates.

"resource" takes tokens, and asks for the client's certificate in the handshake, as
Microsoft Graph does; "key_vault" asks as Azure Key Vault does: by TLS 1.2
renegotiation, for a request with the header x-ms-tokenboundauth: true.

The control endpoint serves GET /journal[?operation=OPERATION], GET, POST and
DELETE /faults, POST /tpm/reset, GET and POST /clock, and POST to these:
  /applications/NAME               {"mtls_enabled":true,"mtls_refusal":51000,
                                    "plain_certificates":false,
                                    "assertion_over_mtls":"required"}
  /applications/NAME/certificates  a certificate in PEM
  /applications/NAME/trusted?subject=CN
                                   an authority's certificate in PEM
  /authority                       a certificate request in PEM, for a certificate
  /applications/NAME/federated     {"issuer":I,"subject":S,"audience":A,"keys":JWKS}
  /attestation/distrust            reject what was attested up to now
  /certificates/revoke             {"thumbprint":T}
  /certificates/reject             {"thumbprint":T,"code":1000612}
  /imds                            {"no_v2":true,"bypass_cache":"refused","limit":{}}
  /resource/challenge              {"access_token":{"acrs":{"value":"c1"}}}, or {}
  /tenant                          {"deny_bound":true,"bound_bearer":false}
A thumbprint is an x5t#S256; one of no certificate here gets 404. What is left
out of an object is off, but stays as it is for an application. Every POST
answers what holds then. A host without managed identity v2, and one with it:
  curl -d '{"no_v2":true}' $CONTROL/imds
  curl -d '{}' $CONTROL/imds

A fault acts on one of these operations:%s.
Its kind is status (with "status", "headers", "body"), body (200 with "headers",
"body"), delay (with "delay": "5s") or reset (of the connection); "count" says
for how many requests, 0 until it is cleared.
  curl -d '{"operation":"imds.issuecredential","kind":"status","status":500,"count":1}' $CONTROL/faults
  curl -d '{"advance":"24h"}' $CONTROL/clock

Options:
`

// Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("azuresim", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("dir", "", "`directory` for sockets and files; made if it does not exist")
	tee := flags.String("tee", simulator.SNP, "`hardware` of the VM: sev-snp or tdx")
	verbose := flags.Bool("verbose", false, "log what the services notice, failed handshakes included")
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), usage, wrap(simulator.Operations()))
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case *dir == "" || flags.NArg() > 0:
		fmt.Fprintln(stderr, "azuresim: error: --dir is needed, and nothing else; see azuresim --help")
		return exitUsage
	}
	if err := serve(ctx, *dir, *tee, newLogger(stderr, *verbose), stdout); err != nil {
		fmt.Fprintln(stderr, "azuresim: error:", err)
		return exitFailed
	}
	return 0
}

// wrap joins names with commas, a few on a line.
func wrap(names []string) string {
	var lines []string
	for group := range slices.Chunk(names, 3) {
		lines = append(lines, strings.Join(group, ", "))
	}
	return "\n  " + strings.Join(lines, ",\n  ")
}

func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// serve runs a platform until ctx ends.
func serve(ctx context.Context, dir, tee string, logger *slog.Logger, stdout io.Writer) error {
	p, err := simulator.Start(ctx, simulator.Config{Dir: dir, TEE: tee, Logger: logger, Endpoints: true})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "azuresim: ready: VM %s, control %s, agent configuration %s\n", p.Info().VMID, p.Info().Control, p.Info().ConfigFile)
	<-ctx.Done()
	return p.Close()
}
