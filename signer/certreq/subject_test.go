package certreq_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer/certreq"
)

// decodeName lists an encoded name with encoding/asn1, in its order: type, tag of the value, value.
// What has a plus before it shares its relative distinguished name with the one above.
func decodeName(t testing.TB, der []byte) []string {
	t.Helper()
	type pairSET []struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	var name []pairSET
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v, %d bytes left", der, err, len(rest))
	}
	var lines []string
	for _, set := range name {
		for i, pair := range set {
			line := fmt.Sprintf("%s %d %s", pair.Type, pair.Value.Tag, pair.Value.Bytes)
			if i > 0 {
				line = "+" + line
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func parseSubject(t testing.TB, text string) certreq.Subject {
	t.Helper()
	s, err := certreq.ParseSubject(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseSubject(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       []string // in the order of the encoding; tags: 12 UTF8String, 19 PrintableString, 22 IA5String
		back       string
	}{
		{"RFC 4514 is encoded from its end", "CN=app,O=Contoso,C=DE",
			[]string{"2.5.4.6 19 DE", "2.5.4.10 12 Contoso", "2.5.4.3 12 app"}, "CN=app,O=Contoso,C=DE"},
		{"OpenSSL's form is encoded from its beginning", "/CN=app/O=Contoso",
			[]string{"2.5.4.3 12 app", "2.5.4.10 12 Contoso"}, "O=Contoso,CN=app"},
		{"spaces around what RFC 4514 separates are dropped", "CN = app , O= Contoso ",
			[]string{"2.5.4.10 12 Contoso", "2.5.4.3 12 app"}, "CN=app,O=Contoso"},
		{"escaped characters are values", `CN=a\,b\+c\"d\\e\<f\>g\;h\=i`,
			[]string{`2.5.4.3 12 a,b+c"d\e<f>g;h=i`}, `CN=a\,b\+c\"d\\e\<f\>g\;h=i`},
		{"escaped spaces at the edges stay", `CN=\ a b\ `, []string{"2.5.4.3 12  a b "}, `CN=\ a b\ `},
		{"one escaped space", `CN=\ `, []string{"2.5.4.3 12  "}, `CN=\ `},
		{"hexadecimal pairs are bytes of UTF-8", `CN=Lu\C4\8Di\C4\87\2CX`, []string{"2.5.4.3 12 Lučić,X"}, `CN=Lučić\,X`},
		{"a number sign inside, or escaped", `CN=\#a#b`, []string{"2.5.4.3 12 #a#b"}, `CN=\#a#b`},
		{"an equals sign inside", "CN=a=b", []string{"2.5.4.3 12 a=b"}, "CN=a=b"},
		{"types of one name are sorted as DER sorts them", "OU=b+CN=a", []string{"2.5.4.3 12 a", "+2.5.4.11 12 b"}, "CN=a+OU=b"},
		{"types in any case and in words", "cn=a,organizationName=b,Uid=c", []string{"0.9.2342.19200300.100.1.1 12 c", "2.5.4.10 12 b", "2.5.4.3 12 a"},
			"CN=a,O=b,UID=c"},
		{"string types are those of the attribute", "serialNumber=7,DC=example,emailAddress=a@b.example,ST=x,L=y,dnQualifier=q",
			[]string{"2.5.4.46 19 q", "2.5.4.7 12 y", "2.5.4.8 12 x", "1.2.840.113549.1.9.1 22 a@b.example", "0.9.2342.19200300.100.1.25 22 example", "2.5.4.5 19 7"},
			"serialNumber=7,DC=example,emailAddress=a@b.example,ST=x,L=y,dnQualifier=q"},
		{"Microsoft's S and E", "S=Bavaria,E=a@b.example", []string{"1.2.840.113549.1.9.1 22 a@b.example", "2.5.4.8 12 Bavaria"}, "ST=Bavaria,emailAddress=a@b.example"},
		{"an OID that has a name gets it", "2.5.4.6=DE", []string{"2.5.4.6 19 DE"}, "C=DE"},
		{"an OID that has none", "1.3.6.1.4.1.311.60.2.1.3=DE", []string{"1.3.6.1.4.1.311.60.2.1.3 12 DE"}, "1.3.6.1.4.1.311.60.2.1.3=DE"},
		{"hexadecimal with another string type", "CN=#130161", []string{"2.5.4.3 19 a"}, "CN=#130161"},
		{"hexadecimal with the usual string type", "CN=#0c0161", []string{"2.5.4.3 12 a"}, "CN=a"},
		{"hexadecimal of an OID that has no name", "1.2.3=#160161", []string{"1.2.3 22 a"}, "1.2.3=#160161"},
		{"backslashes of OpenSSL's form", `/CN=a\/b\+c\\d, #e`, []string{`2.5.4.3 12 a/b+c\d, #e`}, `CN=a/b\+c\\d\, #e`},
		{"a number sign is one in OpenSSL's form", `/CN=#130161`, []string{"2.5.4.3 12 #130161"}, `CN=\#130161`},
		{"spaces stay in OpenSSL's form", "/CN= a /OU=b", []string{"2.5.4.3 12  a ", "2.5.4.11 12 b"}, `OU=b,CN=\ a\ `},
		{"several of one type", "DC=app,DC=example", []string{"0.9.2342.19200300.100.1.25 22 example", "0.9.2342.19200300.100.1.25 22 app"}, "DC=app,DC=example"},
		{"a quoted value", `CN=app, O="Contoso, Inc.", C=US`, []string{"2.5.4.6 19 US", "2.5.4.10 12 Contoso, Inc.", "2.5.4.3 12 app"}, `CN=app,O=Contoso\, Inc.,C=US`},
		{"a quoted value with everything in it", `O = " a,b+c;d<e>#=f/ " , CN=x`, []string{"2.5.4.3 12 x", "2.5.4.10 12  a,b+c;d<e>#=f/ "}, `O=\ a\,b\+c\;d\<e\>#=f/\ ,CN=x`},
		{"quotes that Microsoft doubles", `O="The ""Big, Bad"" Inc", CN=x`, []string{"2.5.4.3 12 x", `2.5.4.10 12 The "Big, Bad" Inc`}, `O=The \"Big\, Bad\" Inc,CN=x`},
		{"quotes that OpenSSL escapes", `O="The \"Big, Bad\" Inc\\"`, []string{`2.5.4.10 12 The "Big, Bad" Inc\`}, `O=The \"Big\, Bad\" Inc\\`},
		{"hexadecimal pairs in quotes", `CN="\C4\8D, x"`, []string{"2.5.4.3 12 č, x"}, `CN=č\, x`},
		{"a number sign in quotes", `CN="#130161"`, []string{"2.5.4.3 12 #130161"}, `CN=\#130161`},
		{"a quoted value beside another type", `CN="a+b"+OU=c`, []string{"2.5.4.11 12 c", "+2.5.4.3 12 a+b"}, `OU=c+CN=a\+b`},
		{"quotes of OpenSSL's form are characters", `/CN="a/OU=b"`, []string{`2.5.4.3 12 "a`, `2.5.4.11 12 b"`}, `OU=b\",CN=\"a`},
		{"an OID with the word", "OID.2.5.4.97=NTRDE-HRB12345, CN=app", []string{"2.5.4.3 12 app", "2.5.4.97 12 NTRDE-HRB12345"}, "organizationIdentifier=NTRDE-HRB12345,CN=app"},
		{"an OID with the word in lower case", "oid.1.3.6.1.4.1.311.60.2.1.3=DE", []string{"1.3.6.1.4.1.311.60.2.1.3 12 DE"}, "1.3.6.1.4.1.311.60.2.1.3=DE"},
		{"what OpenSSL prints is in its order", "subject=C = US, O = Contoso, CN = app", []string{"2.5.4.6 19 US", "2.5.4.10 12 Contoso", "2.5.4.3 12 app"}, "CN=app,O=Contoso,C=US"},
		{"what a newer OpenSSL prints", "subject=C=US, O=Contoso, CN=app", []string{"2.5.4.6 19 US", "2.5.4.10 12 Contoso", "2.5.4.3 12 app"}, "CN=app,O=Contoso,C=US"},
		{"what it prints among other things", `        Subject: C = US, O = "Contoso, Inc.", CN = app`, []string{"2.5.4.6 19 US", "2.5.4.10 12 Contoso, Inc.", "2.5.4.3 12 app"}, `CN=app,O=Contoso\, Inc.,C=US`},
		{"what it prints in the form of RFC 2253", "subject=CN=app,O=Contoso,C=US", []string{"2.5.4.6 19 US", "2.5.4.10 12 Contoso", "2.5.4.3 12 app"}, "CN=app,O=Contoso,C=US"},
		{"what an older OpenSSL prints", "subject= /C=US/O=Contoso/CN=app", []string{"2.5.4.6 19 US", "2.5.4.10 12 Contoso", "2.5.4.3 12 app"}, "CN=app,O=Contoso,C=US"},
		{"Microsoft's G, T and I", "G=Ana, T=Dr., I=A", []string{"2.5.4.43 12 A", "2.5.4.12 12 Dr.", "2.5.4.42 12 Ana"}, "GN=Ana,title=Dr.,initials=A"},
		{"characters are counted, not bytes", "CN=" + strings.Repeat("ü", 64), []string{"2.5.4.3 12 " + strings.Repeat("ü", 64)}, "CN=" + strings.Repeat("ü", 64)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := parseSubject(t, tt.text)
			if diff := cmp.Diff(tt.want, decodeName(t, s.DER())); diff != "" {
				t.Errorf("encoding differs (-want +got):\n%s", diff)
			}
			if s.String() != tt.back || s.Empty() {
				t.Errorf("read back as %s, want %s", s, tt.back)
			}
			if again := parseSubject(t, s.String()); again != s {
				t.Errorf("%s is read as %s", s, again)
			}
		})
	}
}

func TestParseSubjectRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, hint string }{
		{"nothing", "", "empty"},
		{"spaces", "  ", "empty"},
		{"a slash alone", "/", "has no ="},
		{"a slash at the end", "/CN=app/", "has no ="},
		{"a comma at the end", "CN=app,", "has no ="},
		{"no type", "app", "CN=app"},
		{"an empty type", "=app", "is not known"},
		{"an unknown type", "FOO=app", "CN, O, OU"},
		{"a slash among values", "/CN=app/role", "backslash"},
		{"an empty value", "CN=,O=b", "CN has no value"},
		{"an empty value of OpenSSL's form", "/CN=/O=b", "CN has no value"},
		{"a country in words", "C=Germany", "must have 2"},
		{"a long name", "CN=" + strings.Repeat("a", 65), "can have 64"},
		{"a long subject", "CN=a" + strings.Repeat(",OU=a", 1024), "at most 4096"},
		{"an umlaut in a serial number", "serialNumber=ü", "only A-Z"},
		{"an at sign in a country", "C=@@", "only A-Z"},
		{"an umlaut in a domain", "DC=bücher", "xn--"},
		{"a quote that does not end", `CN="a,b`, `\"`},
		{"a quote in the middle", `CN=a"b"`, `\"`},
		{"something behind a quoted value", `CN="a"b`, "behind the quote"},
		{"two quoted values of one attribute", `CN="a" "b,c"`, "behind the quote"},
		{"an empty quoted value", `CN=""`, "CN has no value"},
		{"an escape that is none, in quotes", `CN="\x"`, "backslash"},
		{"an OID without its number", "OID.=a", "is not known"},
		{"a name behind OID", "OID.CN=a", "is not known"},
		{"the word before a name alone", "subject=", "empty"},
		{"the word as a type", "subject", "CN=app"},
		{"a semicolon", "CN=a;O=b", `\;`},
		{"an escape that is none", `CN=\x`, "backslash"},
		{"an escape that is cut off", `CN=a\`, "backslash"},
		{"an escape that is cut off, in OpenSSL's form", `/CN=a\`, "backslash"},
		{"half a hexadecimal pair", `CN=\4`, "backslash"},
		{"a byte that is no UTF-8", `CN=\FF`, "UTF-8"},
		{"a NUL", `CN=app\00.example`, "control character"},
		{"a line feed", "CN=a\nb", "control character"},
		{"a control character of Unicode", "CN=a\u0085b", "control character"},
		{"one type twice in a relative name", "CN=a+CN=b", "twice"},
		{"an OID with a first arc that does not exist", "3.1=a", "is not known"},
		{"an OID with a second arc that does not exist", "1.40=a", "is not known"},
		{"an OID with a leading zero", "1.02=a", "is not known"},
		{"an OID of one arc", "1=a", "is not known"},
		{"an arc that is too large", "1.3.2147483648=a", "is not known"},
		{"a first pair of arcs that is too large", "2.2147483647=a", "is not known"},
		{"a number sign without hexadecimal", "CN=#app", "not hexadecimal"},
		{"hexadecimal that is no DER", "CN=#0c0561", "not one DER value"},
		{"hexadecimal with more behind", "CN=#0c016100", "not one DER value"},
		{"hexadecimal of an INTEGER", "CN=#020101", "string type"},
		{"hexadecimal of a country as UTF8String", "C=#0c024445", "string type"},
		{"hexadecimal of a name as IA5String", "CN=#160161", "string type"},
		{"hexadecimal with a control character", "CN=#0c0100", "control character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := certreq.ParseSubject(tt.text)
			if err == nil {
				t.Fatalf("read as %s", s)
			}
			if !strings.Contains(err.Error(), tt.hint) {
				t.Errorf("%v: does not say %q", err, tt.hint)
			}
		})
	}
}

func TestTheZeroSubjectIsTheEmptyName(t *testing.T) {
	t.Parallel()
	var s certreq.Subject
	if !s.Empty() || s.String() != "" || hex.EncodeToString(s.DER()) != "3000" {
		t.Errorf("%v %q %x", s.Empty(), s, s.DER())
	}
}

// runOpenSSL returns what openssl writes to its output.
func runOpenSSL(t testing.TB, args ...string) []byte {
	t.Helper()
	command := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), args...)
	var complaint strings.Builder
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, complaint.String())
	}
	return out
}

// TestOpenSSLMakesTheSameSubject lets openssl encode its own notation, and print the result in RFC
// 4514's for us to read.
func TestOpenSSLMakesTheSameSubject(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key.pem")
	runOpenSSL(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
	for _, text := range []string{
		"/CN=app/O=Contoso",
		"/C=DE/ST=Bavaria/L=Munich/O=Contoso, Inc./OU=a/OU=b/CN=app",
		"/DC=example/DC=contoso/UID=7/CN=app",
		"/serialNumber=17/dnQualifier=q/emailAddress=a@b.example",
		"/SN=Lučić/GN=Ana/initials=AL/title=Dr./description=x/postalCode=80331/businessCategory=y",
		"/street=Main 1/organizationIdentifier=NTRDE-HRB 1",
		"/OU=b+CN=a+UID=c/O=x",
		`/CN=a\/b\+c\\d, #e"<>;=`,
		"/CN= a ",
		"/2.5.4.10=x/2.5.4.3=app",
	} {
		t.Run(text, func(t *testing.T) {
			der := runOpenSSL(t, "req", "-new", "-key", key, "-utf8", "-subj", text, "-outform", "DER")
			request, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decodeName(t, request.RawSubject), decodeName(t, parseSubject(t, text).DER())); diff != "" {
				t.Errorf("openssl encodes another name (-openssl +ours):\n%s", diff)
			}
			file := filepath.Join(t.TempDir(), "request.der")
			if err := os.WriteFile(file, der, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, form := range []string{"RFC2253", "RFC2253,-esc_msb,utf8", "RFC2253,oid"} {
				out := string(runOpenSSL(t, "req", "-inform", "DER", "-in", file, "-noout", "-subject", "-nameopt", form))
				printed := strings.TrimSuffix(strings.TrimPrefix(out, "subject="), "\n")
				if again := parseSubject(t, printed); string(again.DER()) != string(request.RawSubject) {
					t.Errorf("what openssl prints as %s, %s, is read as %s", form, printed, again)
				}
			}
			for _, form := range []string{"RFC2253", "oneline", "oneline,-esc_msb,utf8", "oneline,-space_eq"} { // the last is what 3.2 and later print
				printed := strings.TrimSuffix(string(runOpenSSL(t, "req", "-inform", "DER", "-in", file, "-noout", "-subject", "-nameopt", form)), "\n")
				if again := parseSubject(t, printed); string(again.DER()) != string(request.RawSubject) {
					t.Errorf("what openssl prints as %s, %s, is read as %s", form, printed, again)
				}
			}
		})
	}
}

// FuzzParseSubject: what is accepted is written so that it is read as the same, and crypto/x509
// finds the same in it.
func FuzzParseSubject(f *testing.F) {
	for _, text := range []string{
		"CN=app,O=Contoso,C=DE", "/CN=app/O=Contoso", `CN=\ a\,b\ `, "OU=b+CN=a", "1.2.3=#160161", "CN=#130161", `/CN=a\/b+UID=c`, `CN=app, O="a ""b"", c"`, "OID.2.5.4.97=x", "subject=C = US, CN = app", "Subject: /C=US", "subject",
		`CN=Lu\C4\8Di\C4\87`, "2.2147483567.4=x", "serialNumber=7,DC=example,emailAddress=a@b.example", `CN=\#`, "CN= ", "=", "/",
	} {
		f.Add(text)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := certreq.ParseSubject(text)
		if err != nil {
			return
		}
		again, err := certreq.ParseSubject(s.String())
		if err != nil || again != s {
			t.Fatalf("%q: written as %s, which is read as %s, %v", text, s, again, err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: s.DER()}, key)
		if err != nil {
			t.Fatal(err)
		}
		request, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		var got []string
		for _, a := range request.Subject.Names {
			got = append(got, fmt.Sprintf("%s %v", a.Type, a.Value))
		}
		var want []string
		for _, line := range decodeName(t, s.DER()) {
			oid, rest, _ := strings.Cut(strings.TrimPrefix(line, "+"), " ")
			_, value, _ := strings.Cut(rest, " ")
			want = append(want, oid+" "+value)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%s: crypto/x509 reads %q, encoding/asn1 %q", s, got, want)
		}
	})
}
