package acquire_test

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"crypto/tls"
	"crypto/x509"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tlsbridge"
	"github.com/keyagent/keyagent/tpm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// outcome is what an error licenses, and by which row.
type outcome struct {
	err  error
	row  string // "" where no row fits, or the error is made of others
	next bool
	weak bool
}

const nothing = ""

// loaded and attested are the two ways in which an error of the layers below reaches the table.
func loaded(err error) outcome {
	return outcome{err: acquire.NotLoaded(fmt.Errorf("below: %w", err)), row: "not-loaded", next: true}
}

func attested(err error) outcome { return loaded(fmt.Errorf("%w: %w", binding.ErrAttestation, err)) }

// raw is an error that the table sees as it is, and that licenses nothing.
func raw(err error) outcome { return outcome{err: fmt.Errorf("somewhere: %w", err)} }

// said is a refusal by Entra.
func said(status int, codes ...int) error {
	return &entra.Error{Status: status, Code: "invalid_request", Codes: codes}
}

// outcomes has every error of every package that an attempt goes through.
func outcomes() map[string][]outcome {
	alert := func(n uint8) error { return &net.OpError{Op: "remote error", Err: tls.AlertError(n)} }
	return map[string][]outcome{
		"acquire.attemptError": {loaded(errors.New("no key"))},
		"acquire.floorError":   {{acquire.NotLoaded(acquire.TooWeak("none", "tpm")), "floor", true, false}},
		"acquire.notReplaced": {
			{acquire.NotReplaced(said(401, 7000214), imds.ErrUnreachable), "", true, false},
			{acquire.NotReplaced(said(401, 7000214), &imds.Error{Operation: "issuecredential", Status: 400}), "", true, true},
			{acquire.NotReplaced(said(401, 7000214), &binding.PausedError{Replacement: true}), "", true, true},
			{acquire.NotReplaced(said(401, 7000214), &binding.PausedError{}), "", true, false},
			{acquire.NotReplaced(said(401, 1000502), &binding.PausedError{Replacement: true}), "", true, false},
			{acquire.NotReplaced(alert(42), &binding.PausedError{Replacement: true}), "", true, false},
		},
		"acquire.ChainError": {
			{chainOf(acquire.NotLoaded(said(400, 51000)), acquire.NotLoaded(said(401, 700027))), "", true, true},
			{chainOf(said(401, 700027), acquire.NotLoaded(imds.ErrUnreachable)), "", true, false},
			{chainOf(said(401, 700027), said(503)), "", false, false},
			{acquire.NotLoaded(chainOf(said(401, 700027), said(400, 700016))), "", true, false},
			raw(&acquire.ChainError{Attempts: []acquire.Attempt{{Err: errors.New("unknown")}}}),
		},
		"acquire.remembered":      {{acquire.Remembered(said(400, 51000)), "bound-form", false, true}, raw(acquire.Remembered(said(503)))},
		"acquire.Error":           {raw(&acquire.Error{Err: errors.New("final")})},
		"acquire.errNoPoP":        {raw(acquire.ErrNoPoP), loaded(acquire.ErrNoPoP)},
		"acquire.ErrOtherPair":    {raw(acquire.ErrOtherPair), loaded(acquire.ErrOtherPair)},
		"acquire.errClosed":       {raw(acquire.ErrClosed)},
		"acquire.errPanic":        {raw(acquire.ErrPanic)},
		"acquire.errCrowded":      {raw(acquire.ErrCrowded)},
		"acquire.errRetired":      {raw(acquire.ErrRetired)},
		"acquire.errForceRefresh": {raw(acquire.ErrForceRefresh)},

		"acquire/binding.ErrAttestation": {attested(errors.New("reset by peer"))},
		"acquire/binding.PausedError":    {loaded(&binding.PausedError{}), loaded(&binding.PausedError{Replacement: true})},

		"acquire/binding.ValidityError": {loaded(fmt.Errorf("%w: %w", imds.ErrBadAnswer, &binding.ValidityError{}))},

		"acquire/entra.ErrUnreachable": {raw(entra.ErrUnreachable)},
		"acquire/entra.ErrBadAnswer":   {raw(entra.ErrBadAnswer)},
		"acquire/entra.Error": {
			raw(said(429, 51000)), raw(said(503, 51000)), raw(said(408, 7000214)), raw(said(400, 4711)), raw(said(403)),
			{&entra.Error{Status: 401, Code: "invalid_client"}, "rejected", true, true},
		},

		"acquire/imds.ErrUnreachable":  {loaded(imds.ErrUnreachable)},
		"acquire/imds.ErrBadAnswer":    {loaded(imds.ErrBadAnswer)},
		"acquire/imds.ErrNotSupported": {{acquire.NotLoaded(imds.ErrNotSupported), "no-msi-v2", true, true}},
		"acquire/imds.Error": {
			{acquire.NotLoaded(&imds.Error{Operation: "getplatformmetadata", Status: 404}), "no-msi-v2", true, true},
			{acquire.NotLoaded(&imds.Error{Operation: "issuecredential", Status: 400, Code: "invalid_request"}), "issuer", true, true},
			loaded(&imds.Error{Operation: "issuecredential", Status: 400, Code: imds.CodeIdentityNotFound}),
			loaded(&imds.Error{Operation: "issuecredential", Status: 404}), loaded(&imds.Error{Operation: "issuecredential", Status: 403}),
			loaded(&imds.Error{Operation: "issuecredential", Status: 429}), loaded(&imds.Error{Operation: "issuecredential", Status: 410}),
			loaded(&imds.Error{Operation: "getplatformmetadata", Status: 400}), loaded(&imds.Error{Operation: "getplatformmetadata", Status: 403}),
			loaded(&imds.Error{Operation: "getplatformmetadata", Status: 429}), loaded(&imds.Error{Operation: "getplatformmetadata", Status: 500}),
			loaded(&imds.Error{Operation: "token", Status: 404}), loaded(&imds.Error{Operation: "token", Status: 400}),
		},

		"attest.CheckError":          {attested(&attest.CheckError{Check: attest.CheckQuoteCoherence, Reason: "clock"})},
		"attest/collect.HostError":   {attested(&collect.HostError{Status: 404, Err: errors.New("no")})},
		"attest/collect.ErrNoReport": {attested(collect.ErrNoReport)},
		"attest/maa.ErrNotOpened":    {attested(maa.ErrNotOpened)},
		"attest/maa.ErrWrongToken":   {attested(maa.ErrWrongToken)},
		"attest/maa.Error": {
			{acquire.NotLoaded(fmt.Errorf("%w: %w", binding.ErrAttestation, &maa.Error{Status: 400})), "evidence", true, true},
			attested(&maa.Error{Status: 401}), attested(&maa.Error{Status: 403}), attested(&maa.Error{Status: 404}), attested(&maa.Error{Status: 413}),
			attested(&maa.Error{Status: 429}), attested(&maa.Error{Status: 503}), attested(&maa.Error{Status: 302}), attested(&maa.Error{}),
			raw(&maa.Error{Status: 400}), // not while a key was attested
		},

		"tlsbridge.UntrustedError": {raw(&tlsbridge.UntrustedError{})},
		"tlsbridge":                {raw(alert(42)), raw(alert(45)), raw(alert(116)), raw(alert(80))}, // none of them proven

		"tpm.PCRError":         {loaded(&tpm.PCRError{}), raw(&tpm.PCRError{})},
		"tpm.ErrUnavailable":   {loaded(tpm.ErrUnavailable), attested(tpm.ErrUnavailable), raw(tpm.ErrUnavailable)},
		"tpm.ErrForeignTPM":    {loaded(tpm.ErrForeignTPM)},
		"tpm.ErrExportable":    {loaded(tpm.ErrExportable)},
		"tpm.ErrAttributes":    {loaded(tpm.ErrAttributes)},
		"tpm.ErrStorageRoot":   {loaded(tpm.ErrStorageRoot)},
		"tpm.ErrAuthValue":     {loaded(tpm.ErrAuthValue)},
		"tpm.ErrPCRsChanged":   {loaded(tpm.ErrPCRsChanged)},
		"tpm.ErrNoNVIndex":     {attested(tpm.ErrNoNVIndex)},
		"tpm.ErrState":         {loaded(tpm.ErrState), attested(tpm.ErrState)},
		"tpm.ErrClosed":        {loaded(tpm.ErrClosed), raw(tpm.ErrClosed)},
		"tpm.ErrKeyGone":       {attested(tpm.ErrKeyGone)},
		"tpm.ErrCiphertext":    {attested(tpm.ErrCiphertext)},
		"tpm.ErrParentUnknown": {loaded(tpm.ErrParentUnknown)},
		"tpm.ParentError":      {loaded(&tpm.ParentError{})},
		"tpm.BankError":        {loaded(&tpm.BankError{})},
		"tpm.ErrPCRBank":       {loaded(tpm.ErrPCRBank), attested(tpm.ErrPCRBank)},
		"tpm.ErrPolicy":        {loaded(tpm.ErrPolicy), raw(tpm.ErrPolicy)},
		"tpm.ErrTampered":      {loaded(tpm.ErrTampered), attested(tpm.ErrTampered), raw(tpm.ErrTampered)},

		"signer.ErrFault":                      {loaded(signer.ErrFault), raw(signer.ErrFault)},
		"signer.ErrUnsupported":                {loaded(signer.ErrUnsupported), raw(signer.ErrUnsupported)},
		"signer/keystore.ErrNoKey":             {loaded(keystore.ErrNoKey)},
		"signer/keystore.ErrGenerationMissing": {loaded(keystore.ErrGenerationMissing)},
		"signer/keystore.ErrKeyExists":         {loaded(keystore.ErrKeyExists)},
		"signer/certreq.CertificateError":      {loaded(&certreq.CertificateError{})},
		"signer/certreq.ErrUnsupported":        {loaded(certreq.ErrUnsupported), raw(certreq.ErrUnsupported)},
		"signer/keystore.ErrNoCertificate":     {loaded(keystore.ErrNoCertificate)},
		"signer/keystore.ErrNoneReplaced":      {loaded(keystore.ErrNoneReplaced)},
		"signer/keystore.InUseError":           {loaded(&keystore.InUseError{Chain: []*x509.Certificate{{}}})},
		"signer/keystore.ErrNotAsked":          {raw(keystore.ErrNotAsked)},

		"internal/upstream.MissingError": {raw(&upstream.MissingError{Member: "access_token"}), attested(&upstream.MissingError{})},
		"internal/upstream.ErrTooLarge":  {raw(upstream.ErrTooLarge), attested(upstream.ErrTooLarge)},
	}
}

func chainOf(errs ...error) error {
	chain := &acquire.ChainError{}
	for _, err := range errs {
		chain.Attempts = append(chain.Attempts, acquire.Attempt{Bound: true, Err: err})
	}
	return fmt.Errorf("the assertion for the application: %w", chain)
}

// codeRows says which row each AADSTS code falls under.
func codeRows() map[string]string {
	return map[string]string{
		"CodeInvalidResourceURI": nothing, "CodeInvalidResource": nothing,
		"CodeAttestationTime": "time", "CodeAttestationIssuer": "rejected", "CodeAttestationClaim": "rejected",
		"CodeAttestationKeyURL": "rejected", "CodeAttestationSignature": "rejected",
		"CodeTokenNotAfterPassed": "time", "CodeCertificateInvalid": "time", "CodeCertificateRejected": "rejected",
		"CodeCertificateRevoked": "rejected", "CodeCertificateMismatch": "rejected",
		"CodeBoundUnsupportedByResource": "bound-form", "CodeBoundUnsupportedByTenant": "bound-form", "CodeFeatureDisabled": "bound-form", "CodeCertificateTrust": "bound-form",
		"CodeNoCredential": nothing, "CodeNoFederation": nothing, "CodeFederationSubject": nothing, "CodeFederationIssuer": nothing,
		"CodeAssertionSignature": "rejected", "CodeCertificateUnknown": "rejected", "CodeAssertionTime": "time",
		"CodeWrongSecret": nothing, "CodeAppNotFound": nothing, "CodeAppDisabled": nothing, "CodeTenantNotFound": nothing, "CodeAssertionInvalid": nothing,
	}
}

// What every error licenses, wherever it comes from.
func TestWhatEachErrorLicenses(t *testing.T) {
	for name, list := range outcomes() {
		for i, want := range list {
			got := acquire.LicenceOf(want.err)
			if got.Row != want.row || got.Next != want.next || got.Weaker != want.weak {
				t.Errorf("%s, %d (%v): got %+v, want row %q, next %v, weaker %v", name, i, want.err, got, want.row, want.next, want.weak)
			}
		}
	}
	for name, code := range constants(t, "entra") {
		want := codeRows()[name]
		got := acquire.LicenceOf(said(400, code))
		if got.Row != want {
			t.Errorf("AADSTS%d (%s): got row %q, want %q", code, name, got.Row, want)
		}
		if want == nothing && (got.Next || got.Weaker) {
			t.Errorf("AADSTS%d (%s) has no row and licenses %+v", code, name, got)
		}
		// An error that may pass, or a 5xx of a server in Entra's place, licenses nothing, whatever
		// code it has.
		for _, status := range []int{408, 429, 500, 503} {
			if got := acquire.LicenceOf(said(status, code)); got != (acquire.Licence{}) {
				t.Errorf("status %d with AADSTS%d licenses %+v", status, code, got)
			}
		}
	}
	for _, err := range []error{nil, errors.New("unknown"), net.ErrClosed, os.ErrPermission} {
		if got := acquire.LicenceOf(err); got != (acquire.Licence{}) {
			t.Errorf("%v licenses %+v", err, got)
		}
	}
}

// A typed error that is new to one of these packages has to be given its place in outcomes, and a
// new AADSTS code in codeRows.
func TestEveryErrorHasItsPlaceInTheTable(t *testing.T) {
	placed := outcomes()
	found := map[string]bool{"tlsbridge": true}
	for _, dir := range []string{
		"acquire", "acquire/binding", "acquire/entra", "acquire/imds", "attest", "attest/collect", "attest/hcl", "attest/maa", "attest/tee", "attest/token",
		"tlsbridge", "tpm", "signer", "signer/keystore", "signer/certreq", "internal/upstream",
	} {
		for _, name := range errorNames(t, dir) {
			found[name] = true
			if len(placed[name]) == 0 {
				t.Errorf("%s has no place: say in outcomes what it licenses", name)
			}
		}
	}
	for name := range placed {
		if !found[name] {
			t.Errorf("outcomes has %s, which no package has", name)
		}
	}
	codes := constants(t, "entra")
	for name := range codes {
		if _, ok := codeRows()[name]; !ok {
			t.Errorf("entra.%s has no place: say in codeRows under which row it falls", name)
		}
	}
	if len(codes) != len(codeRows()) {
		t.Errorf("%d codes, %d places", len(codes), len(codeRows()))
	}
	used := map[string]bool{}
	for _, list := range outcomes() {
		for _, o := range list {
			used[o.row] = true
		}
	}
	for _, row := range codeRows() {
		used[row] = true
	}
	for _, row := range acquire.Licences() {
		if !used[row.Row] {
			t.Errorf("no error is known to fall under row %q", row.Row)
		}
	}
}

// errorNames lists the error types and values that a package exports; of acquire, which makes the
// decision, all of them.
func errorNames(t *testing.T, dir string) []string {
	t.Helper()
	names := map[string]bool{}
	for _, file := range parse(t, dir) {
		for _, decl := range file.Decls {
			for _, name := range declaredErrors(decl) {
				if ast.IsExported(name) || dir == "acquire" {
					names[dir+"."+name] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func declaredErrors(decl ast.Decl) []string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || d.Name.Name != "Error" {
			return nil
		}
		receiver := d.Recv.List[0].Type
		if star, ok := receiver.(*ast.StarExpr); ok {
			receiver = star.X
		}
		return []string{receiver.(*ast.Ident).Name} //nolint:forcetypeassert // a receiver is a name
	case *ast.GenDecl:
		var names []string
		for _, spec := range d.Specs {
			if v, ok := spec.(*ast.ValueSpec); ok {
				for _, n := range v.Names {
					if strings.HasPrefix(n.Name, "Err") || strings.HasPrefix(n.Name, "err") {
						names = append(names, n.Name)
					}
				}
			}
		}
		return names
	}
	return nil
}

func parse(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no source, %v", dir, err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

// constants are the AADSTS codes that a package names.
func constants(t *testing.T, pkg string) map[string]int {
	t.Helper()
	codes := map[string]int{}
	for _, file := range parse(t, "acquire/"+pkg) {
		for _, decl := range file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.CONST {
				continue
			}
			for _, spec := range d.Specs {
				v, _ := spec.(*ast.ValueSpec)
				for i, n := range v.Names {
					if !strings.HasPrefix(n.Name, "Code") || i >= len(v.Values) {
						continue
					}
					var code int
					if literal, ok := v.Values[i].(*ast.BasicLit); ok {
						if _, err := fmt.Sscan(literal.Value, &code); err != nil {
							t.Fatal(err)
						}
					}
					codes[n.Name] = code
				}
			}
		}
	}
	if len(codes) < 20 {
		t.Fatalf("only %d codes found", len(codes))
	}
	return codes
}

// docs/credentials.md shows the table as the code has it: go test ./acquire -run Documentation
// -update writes it there.
func TestTheDocumentationShowsTheTable(t *testing.T) {
	const path, begin, end = "../docs/credentials.md", "<!-- licences: made by go test ./acquire -run Documentation -update -->\n", "<!-- /licences -->\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	shown, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", path)
	}
	want := licenceTable()
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if shown != want {
		t.Errorf("the table in %s is not the code's; got\n%s\nwant\n%s", path, shown, want)
	}
}

func licenceTable() string {
	var out strings.Builder
	out.WriteString("| The attempt ends because | Next entry | Unbound |\n|---|---|---|\n")
	for _, row := range acquire.Licences() {
		next, weaker := "no", "no"
		switch {
		case row.Next && row.Once:
			next = "yes, once in a request"
		case row.Next:
			next = "yes"
		}
		switch {
		case row.Weaker && row.Next:
			weaker = "yes"
		case row.Weaker:
			weaker = "this entry's own form"
		}
		fmt.Fprintf(&out, "| %s | %s | %s |\n", row.When, next, weaker)
	}
	out.WriteString("| anything else | no | no |\n")
	return out.String()
}
