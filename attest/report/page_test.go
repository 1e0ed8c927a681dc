package report_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"image"
	"image/color"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/report"
)

func page(t testing.TB, r *report.Report, q report.Question) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WritePage(&b, report.Explain(q.Rules, q.Policy)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// void are the elements of the page that have no end.
func void() []string { return []string{"meta"} }

// allowed are all elements that the page has. None of them loads or runs anything.
func allowed() []string {
	return []string{
		"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "section", "span", "strong", "code", "pre",
		"a", "dl", "dt", "dd", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "footer", "svg", "defs", "marker", "path", "g", "rect", "text",
	}
}

// attributes are all that the page has. None of them names an address or has code.
func attributes() []string {
	return []string{
		"href", "lang", "charset", "http-equiv", "content", "name", "class", "scope", "aria-hidden", "role", "aria-labelledby", "id",
		"viewbox", "refx", "refy", "markerwidth", "markerheight", "orient", "d", "x", "y", "rx", "width", "height", "marker-end",
	}
}

// elements reads a page strictly: each element is known and ended, in order. It returns the names
// of the elements, and what the page says.
func elements(t *testing.T, page string) (names []string, text string) {
	t.Helper()
	if !strings.HasPrefix(page, "<!DOCTYPE html>\n<html lang=\"en\">") {
		t.Errorf("it begins with %.40q", page)
	}
	var open []string
	var said strings.Builder
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		kind := z.Next()
		token := z.Token()
		switch kind {
		case html.ErrorToken:
			if len(open) > 0 {
				t.Errorf("not ended: %q", open)
			}
			return names, said.String()
		case html.StartTagToken:
			names = append(names, token.Data)
			checkElement(t, token)
			if !slices.Contains(void(), token.Data) {
				open = append(open, token.Data)
			}
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("</%s> within %q", token.Data, open)
			}
			open = open[:len(open)-1]
		case html.TextToken:
			if len(open) > 0 && open[len(open)-1] != "style" {
				said.WriteString(token.Data)
			}
		case html.CommentToken, html.SelfClosingTagToken:
			t.Errorf("%v: %q", kind, token.Data)
		}
	}
}

func checkElement(t *testing.T, token html.Token) {
	t.Helper()
	if !slices.Contains(allowed(), token.Data) {
		t.Errorf("element <%s>", token.Data)
	}
	for _, a := range token.Attr {
		if !slices.Contains(attributes(), a.Key) {
			t.Errorf("<%s> has the attribute %s=%q", token.Data, a.Key, a.Val)
		}
	}
}

func TestThePageIsWellFormedAndLoadsNothing(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	good := report.Verify(data, q)
	names, text := elements(t, page(t, good, q))
	for _, want := range append(attest.CheckNames(), "Verified", q.Challenge.Audience, strings.Repeat("07", 32), good.Evidence.SHA256,
		at.VMID, "ARK-Milan", "Test Virtual TPM Root", good.Chains[0].Anchor().SHA256, "BEGIN PUBLIC KEY", "whose VM it is", "2026-06-01T12:00:00Z") {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if !slices.Contains(names, "svg") || slices.Contains(names, "a") {
		t.Errorf("no picture, or a link: %q", names)
	}
	q.Challenge = nil
	if _, text := elements(t, page(t, report.Verify(data, q), q)); !strings.Contains(text, "There was no nonce") || strings.Contains(text, at.VMID) {
		t.Errorf("without a nonce: %s", text)
	}
	if _, text := elements(t, page(t, report.Verify(nil, q), q)); !strings.Contains(text, "Not verified") || strings.Contains(text, "✓") {
		t.Errorf("nothing at all: %s", text)
	}
}

// The policy of the page allows its own style sheet and nothing else.
func TestThePageForbidsItselfAllElse(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	text := page(t, report.Verify(data, q), q)
	_, style, _ := strings.Cut(text, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	want := `content="default-src &#39;none&#39;; style-src &#39;sha256-` + html.EscapeString(base64.StdEncoding.EncodeToString(sum[:])) +
		`&#39;; base-uri &#39;none&#39;; form-action &#39;none&#39;"`
	if !strings.Contains(text, want) {
		t.Errorf("no %s in %.600s", want, text)
	}
	for _, never := range []string{"url(http", "@import", "//", "javascript:"} {
		if strings.Contains(style, never) {
			t.Errorf("the style sheet has %s", never)
		}
	}
}

// What is in the evidence, in file names and in the policy is text on the page, and nothing else.
func TestHostileTextsAreTextOnThePage(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, func(m *at.Machine) {
		m.ChangeEvidence = func(e *attest.Evidence) { e.Audience = "plain" }
	})
	plain, _ := elements(t, page(t, report.Verify(data, q), q))
	for _, hostile := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onload='alert(1)`, `</style><style>*{display:none}`, `</title><svg onload=x>`,
		`<!--`, `]]>`, "&lt;b&gt;", "\x00\u202e\ufeff", `{{.}}`, "</pre></table>",
	} {
		data, q := bundle(t, func(m *at.Machine) {
			m.ChangeEvidence = func(e *attest.Evidence) { e.Audience = strings.ToValidUTF8(hostile, "") }
		})
		q.File, q.Challenge.Audience = hostile, hostile+"2"
		q.Policy = report.Policy{File: hostile, SHA256: hostile}
		q.Rules.VMID = hostile
		r := report.Verify(data, q)
		names, text := elements(t, page(t, r, q))
		if hostile != "\x00\u202e\ufeff" && !strings.Contains(text, hostile) {
			t.Errorf("%q is not shown", hostile)
		}
		if strings.ContainsAny(text, "\x00\u202e\ufeff") {
			t.Errorf("%q is shown as it is", hostile)
		}
		// More may stand against it, but by the page's own elements only.
		if extra := len(names) - len(plain); extra < 0 || extra > 40 {
			t.Errorf("%q: %d elements, %d without", hostile, len(names), len(plain))
		}
	}
}

func TestTheIndexOfAFleet(t *testing.T) {
	t.Parallel()
	_, q := bundle(t, nil)
	explained := report.Explain(q.Rules, q.Policy)
	for _, file := range []string{"vm-1.json", `"><script>.json`, "javascript:alert(1)//.json", "http:..json", "a?b#c.json", "..%2f.json"} {
		x := report.Index{Title: file, Time: q.At, Counts: "2 files: 1 verified", Rows: []report.IndexRow{{file, true, file, file + ".html"}, {file, false, file, ""}}}
		var b bytes.Buffer
		if err := x.WritePage(&b, explained); err != nil {
			t.Fatal(err)
		}
		names, text := elements(t, b.String())
		if n := strings.Count(strings.Join(names, " ")+" ", " a "); n != 1 || strings.Count(text, file) != 6 {
			t.Errorf("%q: %d links, named %d times", file, n, strings.Count(text, file))
		}
		_, link, _ := strings.Cut(b.String(), `<a href="`)
		link, _, _ = strings.Cut(link, `"`)
		to, err := url.Parse(html.UnescapeString(link))
		if err != nil || to.Scheme != "" || to.Host != "" || to.RawQuery != "" || to.Fragment != "" || to.Path != "./"+file+".html" {
			t.Errorf("%q: the link is %q: %+v, %v", file, link, to, err)
		}
	}
}

// Claims and certificates are the machine's, too: names in them come as they are into the report.
func TestHostileCertificatesAreTextOnThePage(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	r := report.Verify(data, q)
	before, _ := elements(t, page(t, r, q))
	const hostile = `<script src="//x">`
	r.Facts.VMID, r.Kind = hostile, hostile
	for i := range r.Chains {
		for k := range r.Chains[i].Certificates {
			r.Chains[i].Certificates[k].Subject = "CN=" + hostile
		}
	}
	for i := range r.Checks {
		r.Checks[i].Name, r.Checks[i].Reason = hostile+r.Checks[i].Name, hostile
	}
	for i := range r.Proven {
		r.Proven[i].Claim, r.Proven[i].Anchor = hostile, hostile
	}
	after, _ := elements(t, page(t, r, q))
	if slices.Contains(after, "script") || len(after) < len(before)/2 {
		t.Errorf("%q", after)
	}
}

// A browser shows the page: it draws the picture in the colours of the verdict, in light and dark,
// and finds nothing that the page's own policy forbids.
func TestABrowserShowsThePage(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed; `apt-get install chromium` installs it, but is never promised: it takes minutes and half a gigabyte")
	}
	data, q := bundle(t, nil)
	good := page(t, report.Verify(data, q), q)
	q.Challenge.Audience = "https://other.example"
	bad := page(t, report.Verify(data, q), q)
	for _, tt := range []struct {
		name, page, scheme string
		colours            []color.RGBA
	}{
		{"verified-dark", good, "0", []color.RGBA{{0x14, 0x30, 0x1f, 0xff}, {0x14, 0x17, 0x1a, 0xff}}},
		{"refused", bad, "1", []color.RGBA{{0xfd, 0xec, 0xea, 0xff}, {0xb3, 0x26, 0x1e, 0xff}}},
	} {
		picture := shot(t, browser, tt.page, tt.scheme)
		for _, c := range tt.colours {
			if n := pixels(picture, c); n < 500 {
				t.Errorf("%s: %d pixels of %v", tt.name, n, c)
			}
		}
	}
}

// shot returns what the browser shows. The profile is a new one, and a page in a file needs no
// network.
func shot(t *testing.T, browser, page, scheme string) image.Image {
	t.Helper()
	dir := t.TempDir()
	file, out := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--window-size=1000,1200", "--blink-settings=preferredColorScheme="+scheme,
		"--screenshot="+out, "file://"+file)
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if bytes.Contains(said, []byte("CONSOLE")) {
		t.Errorf("the browser complains:\n%s", said)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

func pixels(picture image.Image, want color.RGBA) (n int) {
	b := picture.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			if color.RGBAModel.Convert(picture.At(x, y)) == color.Color(want) {
				n++
			}
		}
	}
	return n
}
