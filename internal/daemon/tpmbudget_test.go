package daemon_test

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// commandLog lists the commands that go to a TPM.
type commandLog struct {
	mu   sync.Mutex
	sent []tpm2.TPMCC
}

// handle notes a command and passes it on.
func (l *commandLog) handle(command []byte, forward tpmtest.Forward) ([]byte, error) {
	l.mu.Lock()
	l.sent = append(l.sent, tpm2.TPMCC(tpmtest.CommandCode(command)))
	l.mu.Unlock()
	return forward(command)
}

// take returns what was sent since the last call.
func (l *commandLog) take() []tpm2.TPMCC {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

// withoutStatus leaves out the question that the status sends, by which the stage finds out that the agent is up.
func withoutStatus(sent []tpm2.TPMCC) []tpm2.TPMCC {
	if n := len(sent); n > 0 && sent[n-1] == tpm2.TPMCCGetCapability {
		return sent[:n-1]
	}
	return sent
}

// commandNames are the commands that an agent sends (TPM 2.0 Part 2, 6.5.2).
var commandNames = map[tpm2.TPMCC]string{
	tpm2.TPMCCCreatePrimary: "TPM2_CreatePrimary", tpm2.TPMCCCreate: "TPM2_Create", tpm2.TPMCCLoad: "TPM2_Load",
	tpm2.TPMCCReadPublic: "TPM2_ReadPublic", tpm2.TPMCCFlushContext: "TPM2_FlushContext",
	tpm2.TPMCCStartAuthSession: "TPM2_StartAuthSession", tpm2.TPMCCPolicyPCR: "TPM2_PolicyPCR",
	tpm2.TPMCCSign: "TPM2_Sign", tpm2.TPMCCCertify: "TPM2_Certify", tpm2.TPMCCQuote: "TPM2_Quote", tpm2.TPMCCRSADecrypt: "TPM2_RSA_Decrypt",
	tpm2.TPMCCNVRead: "TPM2_NV_Read", tpm2.TPMCCNVReadPublic: "TPM2_NV_ReadPublic", tpm2.TPMCCPCRRead: "TPM2_PCR_Read",
	tpm2.TPMCCGetCapability: "TPM2_GetCapability", tpm2.TPMCCReadClock: "TPM2_ReadClock",
}

// listed is a list of commands for people.
func listed(sent []tpm2.TPMCC) string {
	var b strings.Builder
	for i, code := range sent {
		fmt.Fprintf(&b, "\n%4d %s", i+1, cmp.Or(commandNames[code], fmt.Sprintf("0x%03x", uint32(code))))
	}
	return b.String()
}

// signatures counts the commands by which one of the agent's own keys signs.
func signatures(sent []tpm2.TPMCC) (n int) {
	for _, code := range sent {
		if code == tpm2.TPMCCSign {
			n++
		}
	}
	return n
}

// checkBudget prints what was sent and compares it with what may be.
func checkBudget(t *testing.T, what string, sent []tpm2.TPMCC, most, mostSignatures int) {
	t.Helper()
	t.Logf("%s: %d commands, %d signatures%s", what, len(sent), signatures(sent), listed(sent))
	if len(sent) > most {
		t.Errorf("%s: %d commands, at most %d", what, len(sent), most)
	}
	if n := signatures(sent); n > mostSignatures {
		t.Errorf("%s: %d signatures, at most %d", what, n, mostSignatures)
	}
}

// A command takes a TPM of silicon some 20 ms and a signature 200 ms: how many there are is how long a start takes.
func TestTPMCommandBudget(t *testing.T) {
	s := newStage(t)
	proxy := tpmtest.NewProxy(t, s.cfg.TPM)
	var log commandLog
	proxy.Handle(log.handle)
	s.cfg.TPM = proxy.Device()

	s.start()
	ready := withoutStatus(log.take())
	s.mustToken()
	checkBudget(t, "first start ever, until the first token", append(ready, log.take()...), 32, 4)
	s.stop()
	log.take()
	s.start()
	ready = withoutStatus(log.take())
	s.mustToken()
	checkBudget(t, "warm start, until the agent is ready", ready, 7, 1)
	checkBudget(t, "warm start, until the first token", append(ready, log.take()...), 8, 2)
}
