package fleet_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/fleet"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/report"
	"github.com/keyagent/keyagent/internal/tooltest"
)

const (
	benchFiles    = 10_000
	benchDistinct = 250 // the others are further names of these
	roundFiles    = 1_000
	benchRounds   = 3
	maxFleetKB    = 64 << 10
	fleetProcess  = "KEYAGENT_TEST_FLEET"
)

// BenchmarkFleet compares the verification of a directory, whose files are read, parsed, verified
// and reported, with the bare signatures and hashes that must be checked for them, by as many
// goroutines, on values that were parsed before. The two take turns; what is reported are medians,
// in time and in processor time. The memory is the most that a process of its own has had resident
// that verified 10,000 files.
func BenchmarkFleet(b *testing.B) {
	m := machines(b)[0]
	dir, bare := b.TempDir(), make([]bareChecks, benchDistinct)
	for i := range bare {
		e := m.Evidence(b, benchChallenge(i))
		data, err := e.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, benchName(i)), data, 0o600); err != nil {
			b.Fatal(err)
		}
		bare[i] = prepare(b, m, e)
	}
	more(b, dir, benchDistinct, roundFiles)
	trust := trusted(b, m)
	cfg := benchConfig(dir, anchorsIn(b, trust))
	var ours, reference pace
	b.ResetTimer()
	for range b.N {
		for range benchRounds {
			reference.add(func() { checkBare(b, bare, cfg.Workers) })
			ours.add(func() { verifyAll(b, cfg, roundFiles) })
		}
	}
	b.StopTimer()
	b.ReportMetric(middle(ours.perSecond), "ours-files/s")
	b.ReportMetric(middle(reference.perSecond), "reference-files/s")
	b.ReportMetric(middle(ours.perSecond)/middle(reference.perSecond), "ratio")
	b.ReportMetric(middle(ours.perCPU), "ours-files/cpu-s")
	b.ReportMetric(middle(reference.perCPU), "reference-files/cpu-s")
	b.ReportMetric(middle(ours.perCPU)/middle(reference.perCPU), "cpu-ratio")
	more(b, dir, roundFiles, benchFiles)
	b.ReportMetric(peak(b, dir, trust), "ours-kB")
	b.ReportMetric(maxFleetKB, "reference-kB")
}

func benchName(i int) string { return fmt.Sprintf("vm-%05d%s", i, fleet.Suffix) }

// more gives files further names.
func more(b *testing.B, dir string, from, to int) {
	b.Helper()
	for i := from; i < to; i++ {
		if err := os.Link(filepath.Join(dir, benchName(i%benchDistinct)), filepath.Join(dir, benchName(i))); err != nil {
			b.Fatal(err)
		}
	}
}

// pace is how many files rounds of roundFiles did in a second, and in one of the processors.
type pace struct{ perSecond, perCPU []float64 }

func (p *pace) add(do func()) {
	start, cpu := time.Now(), processorTime()
	do()
	p.perSecond = append(p.perSecond, roundFiles/time.Since(start).Seconds())
	p.perCPU = append(p.perCPU, roundFiles/(processorTime()-cpu).Seconds())
}

func processorTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func benchChallenge(i int) attest.Challenge {
	nonce := binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i%benchDistinct))
	return attest.Challenge{Nonce: nonce, Audience: audience}
}

func benchConfig(dir string, anchors attest.TrustAnchors) fleet.Config {
	return fleet.Config{
		Dir: dir, Workers: runtime.GOMAXPROCS(0), SameMachine: true,
		Question: report.Question{Rules: attest.DefaultPolicy(), Anchors: anchors, At: at.Epoch()},
		Challenge: func(name string) (*attest.Challenge, error) {
			i, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(name, "vm-"), fleet.Suffix))
			ch := benchChallenge(i)
			return &ch, err
		},
	}
}

func verifyAll(tb testing.TB, cfg fleet.Config, files int) {
	tb.Helper()
	sum, err := fleet.Verify(tb.Context(), cfg, func(fleet.Row) error { return nil })
	if err != nil || !sum.OK || sum.Files != files {
		tb.Fatalf("%+v, %v", sum, err)
	}
}

func middle(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// bareChecks are the signatures of one bundle: over the certify statement, the quote, the hardware
// report, the VCEK, the ASK and the AK certificate, with their keys.
type bareChecks struct {
	ak                   *rsa.PublicKey
	certify, certifySig  []byte
	quote, quoteSig      []byte
	claims               []byte
	report, reportSig    []byte
	vcek, ask, ark       *x509.Certificate
	akCert, akCertIssuer *x509.Certificate
}

func prepare(tb testing.TB, m *at.Machine, e *attest.Evidence) bareChecks {
	tb.Helper()
	hardware, claims, err := e.Hardware()
	if err != nil {
		tb.Fatal(err)
	}
	c := bareChecks{
		ak: &m.AK.PublicKey, certify: e.Certify, certifySig: e.CertifySignature[6:], quote: e.Quote, quoteSig: e.QuoteSignature[6:],
		claims: claims, report: hardware[:0x2A0], reportSig: der(tb, hardware[0x2A0:]), akCertIssuer: m.CA.Root,
	}
	for i, to := range []**x509.Certificate{&c.vcek, &c.ask, &c.ark} {
		*to = certificate(tb, e.VCEKChain[i])
	}
	c.akCert = certificate(tb, e.AKCertificate)
	return c
}

func certificate(tb testing.TB, raw []byte) *x509.Certificate {
	tb.Helper()
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// der encodes the signature of a report, whose numbers are little-endian in 72 bytes each.
func der(tb testing.TB, raw []byte) []byte {
	tb.Helper()
	number := func(b []byte) *big.Int {
		b = slices.Clone(b)
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(number(raw[:72]))
		b.AddASN1BigInt(number(raw[72:144]))
	})
	sig, err := b.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	return sig
}

func (c *bareChecks) check() error {
	hash := func(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }
	if err := rsa.VerifyPKCS1v15(c.ak, crypto.SHA256, hash(c.certify), c.certifySig); err != nil {
		return err
	}
	if err := rsa.VerifyPKCS1v15(c.ak, crypto.SHA256, hash(c.quote), c.quoteSig); err != nil {
		return err
	}
	if err := c.vcek.CheckSignature(x509.ECDSAWithSHA384, c.report, c.reportSig); err != nil {
		return err
	}
	_ = hash(c.claims)
	if err := c.vcek.CheckSignatureFrom(c.ask); err != nil {
		return err
	}
	if err := c.ask.CheckSignatureFrom(c.ark); err != nil {
		return err
	}
	return c.akCert.CheckSignatureFrom(c.akCertIssuer)
}

func checkBare(tb testing.TB, bare []bareChecks, workers int) {
	tb.Helper()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < roundFiles; i += workers {
				if err := bare[i%len(bare)].check(); err != nil {
					tb.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// trusted writes what must be trusted into a directory: as files, which an operator has, too.
func trusted(b *testing.B, m *at.Machine) string {
	b.Helper()
	root := m.AMD.Root()
	encoded := func(cert *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	dir := b.TempDir()
	for name, data := range map[string][]byte{"amd.pem": append(encoded(root.ASK), encoded(root.ARK)...), "vtpm.pem": encoded(m.CA.Root)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func anchorsIn(tb testing.TB, dir string) attest.TrustAnchors {
	tb.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			tb.Fatal(err)
		}
		return text
	}
	var anchors attest.TrustAnchors
	var err, errVTPM error
	anchors.AMD, err = attest.ParseAMDRoots(read("amd.pem"))
	anchors.VTPM, errVTPM = attest.ParseVTPMRoots(read("vtpm.pem"))
	if err != nil || errVTPM != nil {
		tb.Fatal(err, errVTPM)
	}
	return anchors
}

// peak is the most memory that a process has which does nothing but verify the directory, in kB.
func peak(b *testing.B, dir, trust string) float64 {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestFleetProcess$", "-test.v") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), fleetProcess+"="+dir+":"+trust)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	var kB float64
	_, line, _ := strings.Cut(string(out), "peak ")
	if _, err := fmt.Sscanf(line, "%f kB", &kB); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return kB
}

// TestFleetProcess is the process of which the benchmark measures the memory.
func TestFleetProcess(t *testing.T) {
	dir, trust, _ := strings.Cut(tooltest.Entry(t, fleetProcess), ":")
	verifyAll(t, benchConfig(dir, anchorsIn(t, trust)), benchFiles)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, high, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println("peak", strings.TrimSpace(strings.SplitN(high, "\n", 2)[0]))
}
