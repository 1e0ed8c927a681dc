package daemon_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// otherUser is another program at the same TPM: it may open the device, and no rule of the agent
// names it.
func (c *chaos) otherUser() transport.TPM {
	c.t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(c.platform.Info().TPM, "unix:"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return transport.FromReadWriter(conn)
}

// advanceTPMClock is TPM2_ClockSet, for which the owner's empty password is enough: two minutes
// ahead (TPM 2.0 Part 3, 29.2).
func advanceTPMClock(t transport.TPM) error {
	now, err := tpm2.ReadClock{}.Execute(t)
	if err != nil {
		return err
	}
	be := binary.BigEndian
	command := be.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	command = be.AppendUint32(command, 0) // size, below
	command = be.AppendUint32(command, uint32(tpm2.TPMCCClockSet))
	command = be.AppendUint32(command, uint32(tpm2.TPMRHOwner))
	command = be.AppendUint32(command, 9)
	command = be.AppendUint32(command, uint32(tpm2.TPMRSPW))
	command = append(command, 0, 0, 0, 0, 0)
	command = be.AppendUint64(command, now.CurrentTime.ClockInfo.Clock+120_000)
	be.PutUint32(command[2:], uint32(len(command)))
	answer, err := t.Send(command)
	if err != nil {
		return err
	}
	if code := be.Uint32(answer[6:]); code != 0 {
		return tpm2.TPMRC(code)
	}
	return nil
}

// hclReportRead reports whether a command reads the hardware report.
func hclReportRead(command []byte) bool {
	return tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCNVRead && binary.BigEndian.Uint32(command[14:]) == uint32(collect.NVHCLReport)
}

// An attacker who can use the TPM, or is between it and the agent, can spoil the evidence. No
// service has then said that this machine cannot be bound.
func TestNobodyAtTheTPMChoosesTheWeakerForm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		attack func(t *testing.T, other transport.TPM) tpmtest.Handler
	}{
		{"another user moves the TPM's clock on, all the time", func(t *testing.T, other transport.TPM) tpmtest.Handler {
			return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if err := advanceTPMClock(other); err != nil {
					t.Error(err)
				}
				return forward(command)
			}
		}},
		{"another user moves it once, before the quote", func(t *testing.T, other transport.TPM) tpmtest.Handler {
			var once sync.Once
			return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCQuote {
					once.Do(func() {
						if err := advanceTPMClock(other); err != nil {
							t.Error(err)
						}
					})
				}
				return forward(command)
			}
		}},
		{"one bit of the hardware report's signature is changed", func(*testing.T, transport.TPM) tpmtest.Handler {
			return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				answer, err := forward(command)
				const signature = 16 + 32 + 0x2A0 // header and size of the answer, header of the HCL report, offset in the SNP report
				if hclReportRead(command) && len(answer) > signature && string(answer[16:20]) == "HCLA" {
					answer[signature] ^= 1
				}
				return answer, err
			}
		}},
		{"the hardware report is gone", func(*testing.T, transport.TPM) tpmtest.Handler {
			return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCNVReadPublic && binary.BigEndian.Uint32(command[10:]) == uint32(collect.NVHCLReport) {
					return tpmtest.Response(0x18b), nil // TPM_RC_HANDLE, of the first handle
				}
				return forward(command)
			}
		}},
		{"the hardware report cannot be read", func(*testing.T, transport.TPM) tpmtest.Handler {
			return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if hclReportRead(command) {
					return tpmtest.Response(0x146), nil // TPM_RC_NV_RANGE
				}
				return forward(command)
			}
		}},
		{"the TPM refuses to quote", func(*testing.T, transport.TPM) tpmtest.Handler {
			return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCQuote {
					return tpmtest.Response(0x1c4), nil // TPM_RC_VALUE, of the first parameter
				}
				return forward(command)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newDuel(t, "")
			c.proxy.Handle(tt.attack(t, c.otherUser()))
			for range 3 { // a refusal must not become an unbound token while it is remembered either
				c.checkNotUnbound("vm-user")
				c.advance(time.Minute)
			}
			c.proxy.Handle(nil)
			c.advance(8 * 24 * time.Hour)
			if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: resource}); err != nil || !token.Bound {
				t.Errorf("afterwards: got bound %v, %v", token.Bound, err)
			}
			capabilities, err := c.client.Capabilities(t.Context())
			if err != nil || known(capabilities.ManagedIdentityV2) == "false" {
				t.Errorf("capabilities: %+v, %v", capabilities.ManagedIdentityV2, err)
			}
		})
	}
}

// checkNotUnbound asks for a token, which may be refused.
func (c *chaos) checkNotUnbound(identity string) {
	c.t.Helper()
	token, err := c.client.Token(c.t.Context(), client.TokenRequest{Identity: identity, Resource: resource})
	if err == nil && !token.Bound {
		c.t.Errorf("%s got an unbound token, of strength %s by %s", identity, token.Strength, token.Credential)
	}
}

// Whichever answer of the TPM is changed on its way while evidence is made, nothing goes unbound:
// not what the agent itself notices, and not what it sends on to the attestation service.
func TestNoChangedAnswerOfTheTPMMakesUnbound(t *testing.T) {
	const perAnswer, perDuel = 3, 6 // a certificate of the simulated platform ends before many issuances that are a week apart
	answers, changed := 1, map[int]bool{}
	for first := 0; first < answers; first += perDuel {
		t.Run(fmt.Sprintf("answers from %d", first), func(t *testing.T) {
			c := newDuel(t, "")
			c.issueAnew(nil) // what only the first issuance asks of the TPM
			if answers = c.issueAnew(nil); answers < 10 {
				t.Fatalf("%d answers seen: the certificate was not issued anew", answers)
			}
			for n := first; n < min(first+perDuel, answers); n++ {
				for i := range perAnswer {
					c.issueAnew(func(at int, answer []byte) {
						if at == n && len(answer) > 10 {
							at := 10 + ((n*perAnswer+i)*131)%(len(answer)-10)
							answer[at] ^= 1 << ((n + i) % 8)
							changed[n] = true
						}
					})
					c.issueAnew(nil) // so that the next one begins like this one
				}
			}
		})
	}
	unchanged := 0
	for n := range answers {
		if !changed[n] {
			unchanged++ // it has nothing but a header, or comes after the certificate was issued
		}
	}
	if unchanged > answers/3 {
		t.Errorf("%d of %d answers were not changed", unchanged, answers)
	}
}

// issueAnew has a certificate issued, and returns how many answers the TPM gave; change sees each.
// Nothing unbound may come of it.
func (c *chaos) issueAnew(change func(at int, answer []byte)) int {
	c.t.Helper()
	c.advance(8 * 24 * time.Hour)
	var mu sync.Mutex // a flush may go on when the token is there
	seen := 0
	c.proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		answer, err := forward(command)
		mu.Lock()
		defer mu.Unlock()
		if change != nil {
			change(seen, answer)
		}
		seen++
		return answer, err
	})
	c.checkNotUnbound("vm-user")
	c.proxy.Handle(nil)
	mu.Lock()
	defer mu.Unlock()
	return seen
}

// Any process of the VM can have IMDS throttle the VM, and an attacker on its link can cut
// connections: neither moves a list whose bound entry fails for it on to an entry that is not
// bound.
func TestADisturbedMetadataServiceDoesNotChooseAnUnboundEntry(t *testing.T) {
	c := newDuel(t, "")
	c.stop()
	for _, id := range c.cfg.Identities {
		if id.Name == "app-fic" {
			app := *id.Application
			bound, unbound := app.Credentials[0], app.Credentials[0]
			bound.Name, bound.Bound = "bound", config.BoundRequire
			unbound.Name, unbound.Bound = "unbound", config.BoundNever
			app.Credentials = []config.Credential{bound, unbound}
			c.cfg.Identities = append(c.cfg.Identities, config.Identity{Name: "app-list", Application: &app})
			c.cfg.Rules[0].Identities = append(c.cfg.Rules[0].Identities, "app-list")
			break
		}
	}
	c.start()
	for _, f := range []fault.Fault{
		status(429, ""), status(503, ""), status(404, "", "Server", "nginx"), status(403, "", "Server", "-"), status(407, "", "Server", "-"),
		{Kind: fault.Reset}, {Kind: fault.Body, Body: "<html>"},
	} {
		for _, operation := range []string{"imds.getplatformmetadata", "imds.issuecredential"} {
			c.advance(8 * 24 * time.Hour)
			f.Operation = operation
			c.add(f)
			token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "app-list", Resource: resource})
			c.platform.Faults().Clear()
			if err == nil {
				t.Errorf("%s, %s %d: got a token of %q, bound: %v", operation, f.Kind, f.Status, token.Credential, token.Bound)
			} else if want := "not tried, since unbound: unbound"; !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s, %s %d: the error does not say what was not tried: %v", operation, f.Kind, f.Status, err)
			}
		}
	}
	c.advance(8 * 24 * time.Hour)
	if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "app-list", Resource: resource}); err != nil || !token.Bound {
		t.Errorf("afterwards: got bound %v, %v", token.Bound, err)
	}
}

// A machine whose clock is wrong does not lose its bound credential to an unbound one, whichever
// way the clock is wrong.
func TestAWrongClockDoesNotChooseAnUnboundEntry(t *testing.T) {
	c := newDuel(t, "")
	for _, refusal := range []fault.Fault{status(401, codes(700024)), status(401, codes(1000502)), status(400, codes(1000901)), status(401, codes(1000610))} {
		c.advance(8 * 24 * time.Hour)
		refusal.Operation = "entra.mtls.token"
		c.add(refusal)
		for _, identity := range []string{"app-prefer", "vm-user"} {
			c.checkNotUnbound(identity)
		}
		c.platform.Faults().Clear()
	}
	// Attested while the clock was right, and kept for longer than it is good.
	c.advance(8 * 24 * time.Hour)
	if _, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource}); err != nil {
		t.Fatal(err)
	}
	over := status(400, `{"error":"invalid_request","error_description":"attestation token: token is expired"}`)
	over.Operation, over.Count = "imds.issuecredential", 1
	c.add(over)
	if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: resource}); err != nil || !token.Bound {
		t.Errorf("a kept attestation that is over: got bound %v, %v", token.Bound, err)
	}
	c.platform.Faults().Clear()
	for _, e := range []string{"imds.token", "entra.login.token"} {
		if n := len(c.platform.Journal().Operation(e)); n != 0 {
			t.Errorf("%d requests on %s", n, e)
		}
	}
	c.advance(time.Minute)
	if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "app-prefer", Resource: resource}); err != nil || !token.Bound {
		t.Errorf("afterwards: got bound %v, %v", token.Bound, err)
	}
}

// An attestation token that was kept is refused by IMDS once it is over, which this machine may not
// know.
func TestAClockThatIsSetBackDoesNotMakeUnbound(t *testing.T) {
	for _, back := range []time.Duration{10 * time.Minute, 9 * time.Hour, 30 * 24 * time.Hour} {
		t.Run(back.String(), func(t *testing.T) {
			c := newDuel(t, "")
			c.stop()
			var behind atomic.Int64
			c.now = func() time.Time { return c.platform.Clock().Now().Add(-time.Duration(behind.Load())) }
			c.start()
			if _, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource}); err != nil {
				t.Fatal(err)
			}
			c.advance(8*time.Hour + 5*time.Minute) // the life of an attestation token, whose last minutes are not used
			behind.Store(int64(back))
			for _, identity := range []string{"vm-user", "app-prefer"} {
				c.checkNotUnbound(identity)
			}
		})
	}
}

// Codes that are there and cannot be understood are not "no code": they license nothing.
func TestCodesThatCannotBeReadLicenseNothing(t *testing.T) {
	c := newDuel(t, "")
	for _, body := range []string{
		`{"error":"invalid_client","error_codes":["700024"]}`,
		`{"error":"invalid_client","error_codes":700024}`,
		`{"error":"invalid_client","error_codes":[700024.0]}`,
		`{"error":"invalid_client","error_codes":["1000901"]}`,
		`{"error":"invalid_client","error_codes":["a code"]}`,
		`{"error":"invalid_client","error_codes":{"first":7000214}}`,
		`{"error":"invalid_client","error_codes":[7000214,null]}`,
		`{"error":"invalid_client","error_codes":[700024],"error_codes":[7000214]}`,
		`{"error":["invalid_client"]}`,
	} {
		c.advance(8 * 24 * time.Hour)
		refusal := status(401, body)
		refusal.Operation = "entra.mtls.token"
		c.add(refusal)
		for _, identity := range []string{"app-prefer", "vm-user"} {
			if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: identity, Resource: resource}); err == nil {
				t.Errorf("%s, %s: got a token, bound: %v", identity, body, token.Bound)
			}
		}
		c.platform.Faults().Clear()
	}
}

// Another user of the TPM extends a PCR between the quote and the making of the transport key: what
// does not fit together is not sent.
func TestAPCRThatIsExtendedMeanwhileIsNoticedHere(t *testing.T) {
	c := newDuel(t, "")
	other := c.otherUser()
	var quoted, extended atomic.Bool
	c.proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		answer, err := forward(command)
		code := tpm2.TPMCC(tpmtest.CommandCode(command))
		if code == tpm2.TPMCCQuote {
			quoted.Store(true)
		}
		if quoted.Load() && code == tpm2.TPMCCPCRRead && !extended.Swap(true) {
			extend := tpm2.PCRExtend{
				PCRHandle: tpm2.AuthHandle{Handle: 7, Auth: tpm2.PasswordAuth(nil)},
				Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
			}
			if _, err := extend.Execute(other); err != nil {
				t.Error(err)
			}
		}
		return answer, err
	})
	before := len(c.platform.Journal().Operation("maa.attest"))
	c.checkNotUnbound("vm-user")
	c.proxy.Handle(nil)
	if sent := len(c.platform.Journal().Operation("maa.attest")) - before; !extended.Load() || sent != 0 {
		t.Errorf("extended: %v; the attestation service was asked %d times", extended.Load(), sent)
	}
}
