package pemfile_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/tooltest"
)

const limit = 64 << 10

// content is what looks like DER: a SEQUENCE of several lines in base64.
func content(fill byte) []byte {
	return append([]byte{0x30, 0x82, 0, 200}, bytes.Repeat([]byte{fill}, 200)...)
}

func encode(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

// two are two blocks, one after the other.
func two() string { return encode("CERTIFICATE", content(1)) + encode("X509 CRL", content(2)) }

func inUTF16(text string, order binary.AppendByteOrder, mark bool) string {
	var b []byte
	if mark {
		b = order.AppendUint16(b, 0xfeff)
	}
	for _, unit := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}

func TestTextAroundPEMIsIgnored(t *testing.T) {
	t.Parallel()
	indent := func(by string) string { return by + strings.ReplaceAll(two(), "\n", "\n"+by) }
	oneLine := func(by string) string { return strings.ReplaceAll(two(), "\n", by) }
	for _, tt := range []struct {
		name, text string
		second     int // line of the second block
	}{
		{"nothing", two(), 8},
		{"a byte order mark", "\ufeff" + two(), 8},
		{"a byte order mark at the beginning of each file that was put together", "\ufeff" + strings.ReplaceAll(two(), "-----\n-----", "-----\n\ufeff-----"), 8},
		{"carriage returns", strings.ReplaceAll(two(), "\n", "\r\n"), 8},
		{"UTF-16 of PowerShell", inUTF16(strings.ReplaceAll(two(), "\n", "\r\n"), binary.LittleEndian, true), 8},
		{"UTF-16, the other order", inUTF16(two(), binary.BigEndian, true), 8},
		{"UTF-16 without a mark", inUTF16("é\n"+two(), binary.LittleEndian, false), 9},
		{"indentation of YAML", indent("    "), 8},
		{"indentation with tabs", indent("\t"), 8},
		{"spaces in place of line feeds", oneLine(" "), 1},
		{"carriage returns in place of line feeds", oneLine("\r"), 1},
		{"nothing in place of line feeds", oneLine(""), 1},
		{`\n in place of line feeds`, oneLine(`\n`), 1},
		{`\r\n in place of line feeds`, oneLine(`\r\n`), 1},
		{`\\n in place of line feeds`, oneLine(`\\n`), 1},
		{"empty lines", strings.ReplaceAll(two(), "\n", "\n\n"), 15},
		{"no line feed at the end of a file that another was put behind", strings.Replace(two(), "-----\n-----BEGIN X509", "----------BEGIN X509", 1), 7},
		{"no line feed at the end", strings.TrimSuffix(two(), "\n"), 8},
		{"text of OpenSSL", "Bag Attributes\n    friendlyName: app\nsubject=CN = a\n\n" + two() + "\nkey_purpose: none", 12},
		{"a fingerprint", strings.Repeat("0a", 32) + "\n" + two(), 9},
		{"comments and rules", "# roots\n=====\n" + two() + "# -- end --\n", 10},
		{"lines of another length", strings.ReplaceAll(two(), "B\nA", "BA"), 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := pemfile.Read([]byte(tt.text), limit)
			if err != nil {
				t.Fatal(err)
			}
			var labels []string
			for _, b := range got {
				labels = append(labels, b.Label)
			}
			if diff := cmp.Diff([]string{"CERTIFICATE", "X509 CRL"}, labels); diff != "" {
				t.Fatal(diff)
			}
			if !bytes.Equal(got[0].Bytes, content(1)) || !bytes.Equal(got[1].Bytes, content(2)) || got[0].Form != pemfile.PEM {
				t.Error("not what was encoded")
			}
			if got[1].Line != tt.second {
				t.Errorf("the second block is in line %d, want %d", got[1].Line, tt.second)
			}
		})
	}
}

// In each of these, encoding/pem finds one good block, or nothing, and says no word about the rest.
func TestAFileIsReadAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	good, other := encode("CERTIFICATE", content(1)), encode("CERTIFICATE", content(2))
	commented := "# " + strings.ReplaceAll(strings.TrimSuffix(other, "\n"), "\n", "\n# ") + "\n"
	for _, tt := range []struct {
		name, text string
		line       int
		want       string
	}{
		{"a second block that is cut off", good + other[:150], 8, "no end"},
		{"a first block that is cut off", other[:150] + "\n" + good, 1, "line 4 is not its end"},
		{"cut off in its last line", good + other[:len(other)-4], 8, "line 14 is not its end"},
		{"a base64 that lacks a character", good + strings.Replace(other, "MII", "MI", 1), 8, "right length"},
		{"a character that is not base64", good + strings.Replace(other, "MII", "M!I", 1), 9, "'!'"},
		{"a character that is not ASCII", good + strings.Replace(other, "MII", "M\u00e9I", 1), 9, "is not base64"},
		{"base64 for URLs", good + strings.Replace(other, "MII", "M-_", 1), 9, "'-'"},
		{"an empty block", good + encode("CERTIFICATE", nil), 8, "empty"},
		{"another label at the end", good + strings.Replace(other, "END CERTIFICATE", "END X509 CRL", 1), 8, "line 14 is not its end"},
		{"a label that does not end", good + strings.Replace(other, "CERTIFICATE-----", "CERTIFICATE", 1), 8, "label"},
		{"no label", good + strings.Replace(other, "BEGIN CERTIFICATE", "BEGIN ", 1), 8, "label"},
		{"four dashes in front", good + other[1:], 9, "looks like part"},
		{"dashes of a word processor", good + strings.ReplaceAll(other, "-----", "\u2014\u2013"), 9, "looks like part"},
		{"the beginning is missing", good + strings.Replace(other, "-----BEGIN CERTIFICATE-----\n", "", 1), 8, "looks like part"},
		{"the end is missing", good + strings.Replace(other, "-----END CERTIFICATE-----\n", "", 1) + good, 8, "line 14 is not its end"},
		{"lower case", good + strings.ToLower(other[:28]) + other[28:], 9, "looks like part"},
		{"an end that did not begin", good + "-----END CERTIFICATE-----\n", 8, "did not begin"},
		{"commented out", good + commented, 8, "commented out"},
		{"commented out, on one line", good + "# " + strings.ReplaceAll(other, "\n", " "), 8, "commented out"},
		{"quoted in a mail", good + "> " + strings.ReplaceAll(other, "\n", "\n> "), 8, "other text on its line"},
		{"the value of a variable", `CERT="` + strings.ReplaceAll(other, "\n", " "), 1, "other text on its line"},
		{"headers", encode("CERTIFICATE", content(1)) + string(pem.EncodeToMemory(&pem.Block{
			Type: "CERTIFICATE", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: content(2)})), 9, "headers"},
		{"UTF-16 behind UTF-8", good + inUTF16(other, binary.LittleEndian, false), 8, "UTF-16"},
		{"UTF-8 behind UTF-16", inUTF16(other, binary.LittleEndian, true) + good, 1, "UTF-16"},
		{"DER behind PEM", good + string(content(0)), 8, "binary data"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			blocks, err := pemfile.Read([]byte(tt.text), limit)
			if err == nil {
				t.Fatalf("%d blocks were read", len(blocks))
			}
			e, ok := errors.AsType[*pemfile.Error](err)
			if !ok || e.Line != tt.line || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: want %q in line %d", err, tt.want, tt.line)
			}
		})
	}
}

func TestFilesWithoutPEM(t *testing.T) {
	t.Parallel()
	der := content(1)
	inBase64 := base64.StdEncoding.EncodeToString(der)
	short := []byte{0x30, 3, 2, 1, 1}
	for _, tt := range []struct {
		name, text string
		form       pemfile.Form
		want       []byte
	}{
		{"DER", string(der), pemfile.DER, der},
		{"short DER", string(short), pemfile.DER, short},
		{"BER of no stated length", "\x30\x80abc\x00\x00", pemfile.DER, []byte("\x30\x80abc\x00\x00")},
		{"base64 in one line", inBase64, pemfile.Base64, der},
		{"base64 in lines of Windows", "\ufeff" + inBase64[:64] + "\r\n" + inBase64[64:] + "\r\n", pemfile.Base64, der},
		{"base64 in UTF-16", inUTF16(inBase64, binary.LittleEndian, true), pemfile.Base64, der},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := pemfile.Read([]byte(tt.text), limit)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]pemfile.Block{{Form: tt.form, Bytes: tt.want}}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":                      {"", "empty"},
		"white space":                  {" \r\n\ufeff", "empty"},
		"text":                         {"0 is no SEQUENCE", "neither PEM nor DER"},
		"a byte order mark before DER": {"\ufeff\x30\x03\x02\x01\x05", "a byte order mark is in front"},
		"base64 of something else":     {"aGVsbG8gd29ybGQ=", "neither PEM nor DER"},
		"base64 of PEM":                {base64.StdEncoding.EncodeToString([]byte(two())), "Kubernetes"},
		"PEM in a URL":                 {strings.ReplaceAll(strings.ReplaceAll(two(), " ", "%20"), "\n", "%0A"), "URL-encoded"},
	} {
		if got, err := pemfile.Read([]byte(tt.text), limit); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d blocks, %v; want %q", name, len(got), err, tt.want)
		}
	}
}

func TestSizesAreLimited(t *testing.T) {
	t.Parallel()
	block := encode("CERTIFICATE", content(1)[:7])
	if blocks, err := pemfile.Read([]byte(strings.Repeat(block, 1000)), 1<<20); err != nil || len(blocks) != 1000 {
		t.Errorf("%d blocks, %v", len(blocks), err)
	}
	for want, text := range map[string]string{"more than 1000": strings.Repeat(block, 1001), "more than 64 KiB": strings.Repeat("\n", 64<<10+1)} {
		most := 1 << 20
		if strings.Contains(want, "KiB") {
			most = limit
		}
		if _, err := pemfile.Read([]byte(text), most); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
}

// A software private key is named and not decoded, and no piece of it is in an error, however
// damaged it is.
func TestNoPrivateKeyIsDecodedOrRepeated(t *testing.T) {
	t.Parallel()
	secret := base64.StdEncoding.EncodeToString([]byte("the private exponent and whatever else there is to hide in a key"))
	for _, label := range []string{"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"} {
		whole := "-----BEGIN " + label + "-----\nProc-Type: 4,ENCRYPTED\n\n" + secret + "\n-----END " + label + "-----\n"
		blocks, err := pemfile.Read([]byte(whole), limit)
		if err != nil || len(blocks) != 1 || !blocks[0].SoftwareKey() || blocks[0].Bytes != nil {
			t.Errorf("%s: %+v, %v", label, blocks, err)
		}
		for _, damaged := range []string{
			whole[:len(whole)-10], whole[:len(whole)-40], whole[1:], "# " + whole, strings.Replace(whole, "-----\n", " -----\n", 1),
			strings.Replace(whole, label+"-----", label, 1), whole + secret + "\n",
		} {
			_, err := pemfile.Read([]byte(damaged), limit)
			if err == nil {
				continue
			}
			for i := 0; i+6 < len(secret); i++ {
				if strings.Contains(err.Error(), secret[i:i+6]) {
					t.Errorf("%v repeats %q", err, secret[i:i+6])
				}
			}
		}
	}
}

// What errors advise works when it is pasted, with paths that a shell would take apart, too.
func TestTheAdvisedCommandsUnwrap(t *testing.T) {
	t.Parallel()
	good, other := encode("CERTIFICATE", content(1)), encode("CERTIFICATE", content(0xbe))
	inURL := strings.NewReplacer(" ", "%20", "\n", "%0A", "+", "%2B", "/", "%2F", "=", "%3D").Replace(good + other)
	for name, text := range map[string]string{
		"the value of a variable": `CERT="` + strings.ReplaceAll(good+other, "\n", " ") + `"`,
		"a string of JSON":        `"` + strings.ReplaceAll(good+other, "\n", `\n`) + `"`,
		"a member of JSON":        `{"ca": "` + strings.ReplaceAll(good+other, "\n", `\n`) + `", "b": 1}`,
		"a scalar of YAML":        "ca: " + strings.ReplaceAll(good+other, "\n", "\n  "),
		"a Kubernetes secret":     base64.StdEncoding.EncodeToString([]byte(good + other)),
		"a header of nginx":       inURL,
	} {
		for _, file := range []string{"file.pem", "-it's a $(file)"} {
			t.Run(name+" in "+file, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := pemfile.Read([]byte(text), limit)
				if err == nil {
					t.Fatal("it was read as it is")
				}
				_, command, _ := strings.Cut(pemfile.Named(file, err).Error(), "unwrap it: ")
				run := exec.CommandContext(t.Context(), tooltest.Tool(t, "sh"), "-c", command)
				run.Dir = dir
				if out, err := run.CombinedOutput(); err != nil || len(out) > 0 {
					t.Fatalf("%s: %v\n%s", command, err, out)
				}
				unwrapped, err := os.ReadFile(filepath.Join(dir, "unwrapped.pem"))
				if err != nil {
					t.Fatal(err)
				}
				blocks, err := pemfile.Read(unwrapped, limit)
				if err != nil || len(blocks) != 2 || !bytes.Equal(blocks[0].Bytes, content(1)) || !bytes.Equal(blocks[1].Bytes, content(0xbe)) {
					t.Errorf("%s: %d blocks, %v, of\n%s", command, len(blocks), err, unwrapped)
				}
			})
		}
	}
}

func TestAnErrorIsNamedOnce(t *testing.T) {
	t.Parallel()
	if pemfile.Named("a", nil) != nil {
		t.Error("no error became one")
	}
	_, err := pemfile.Read(nil, limit)
	if got := pemfile.Named("b", pemfile.Named("a", err)).Error(); got != "b: it is empty" {
		t.Errorf("%q", got)
	}
	other := errors.New("other")
	if err := pemfile.Named("a", other); !errors.Is(err, other) || err.Error() != "a: other" {
		t.Errorf("%v", err)
	}
}

// FuzzRead: what is read is written in PEM and read as the same, and what encoding/pem finds in it
// is among it.
func FuzzRead(f *testing.F) {
	for _, text := range []string{
		two(), "\ufeff" + two(), inUTF16(two(), binary.LittleEndian, true), strings.ReplaceAll(two(), "\n", `\n`), "# " + two(), two()[:100],
		string(content(1)), base64.StdEncoding.EncodeToString(content(1)), encode("RSA PRIVATE KEY", content(1)), "-----BEGIN A-----", "-----END A-----", "",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks, err := pemfile.Read(data, limit)
		if err != nil {
			if _, ok := errors.AsType[*pemfile.Error](err); !ok || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v", err)
			}
			return
		}
		var again []byte
		for _, b := range blocks {
			if (b.Bytes == nil) != b.SoftwareKey() || (b.Label == "") != (b.Form != pemfile.PEM) {
				t.Fatalf("%+v", b)
			}
			again = append(again, pem.EncodeToMemory(&pem.Block{Type: b.Label, Bytes: b.Bytes})...)
		}
		if len(blocks) == 0 {
			t.Fatal("no block and no error")
		}
		if blocks[0].Form == pemfile.PEM {
			same, err := pemfile.Read(again, len(again))
			if err != nil || !slices.EqualFunc(same, blocks, func(x, y pemfile.Block) bool { return x.Label == y.Label && bytes.Equal(x.Bytes, y.Bytes) }) {
				t.Fatalf("%d blocks became %d, %v", len(blocks), len(same), err)
			}
		}
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if !slices.ContainsFunc(blocks, func(b pemfile.Block) bool {
				return b.Label == block.Type && (b.SoftwareKey() || bytes.Equal(b.Bytes, block.Bytes))
			}) {
				t.Fatalf("encoding/pem finds a block %q that was passed over", block.Type)
			}
		}
	})
}
