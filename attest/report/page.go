package report

import (
	"crypto/sha256"
	_ "embed" // the style sheet
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/attest"
)

//go:embed page.css
var pageCSS string

// WritePage writes the report as one HTML page to be filed: it loads nothing, has no script, and
// forbids both to itself. e is the policy in force.
func (r *Report) WritePage(w io.Writer, e Explanation) error {
	m := &markup{}
	m.begin(r.Headline() + " " + r.Evidence.File)
	m.element("h1", "Verification of attestation evidence")
	m.verdict(r)
	m.about(r)
	m.element("h2", "Chain of trust")
	m.open("div", "class", "picture")
	tree := r.tree()
	m.picture(tree)
	m.close("div")
	m.claims(r)
	m.element("h2", "Checks")
	m.links(tree)
	m.anchors(r)
	m.facts(r.Facts)
	m.policy(e)
	m.footer(r)
	m.end()
	_, err := io.WriteString(w, m.b.String())
	return err
}

// begin writes all up to the content of the page, end what follows it.
func (m *markup) begin(title string) {
	m.b.WriteString("<!DOCTYPE html>\n")
	m.open("html", "lang", "en")
	m.head(title)
	m.open("body")
}

func (m *markup) end() {
	m.close("body")
	m.close("html")
}

func (m *markup) head(title string) {
	style := sha256.Sum256([]byte(pageCSS))
	m.open("head")
	m.open("meta", "charset", "utf-8")
	m.open("meta", "http-equiv", "Content-Security-Policy", "content",
		"default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(style[:])+"'; base-uri 'none'; form-action 'none'")
	m.open("meta", "name", "referrer", "content", "no-referrer")
	m.open("meta", "name", "viewport", "content", "width=device-width, initial-scale=1")
	m.element("title", title)
	m.open("style")
	m.b.WriteString(pageCSS) // a constant of this package
	m.close("style")
	m.close("head")
}

func (m *markup) verdict(r *Report) {
	state, word := "fail", "Not verified"
	if r.Verified {
		state, word = "pass", "Verified"
	}
	m.open("div", "class", "verdict "+state)
	m.element("span", symbol(state), "class", "mark", "aria-hidden", "true")
	m.open("div")
	m.element("strong", word)
	m.element("span", verdictText(r))
	m.close("div")
	m.close("div")
	if stand := r.Hindrances(); len(stand) > 0 {
		m.open("ul")
		for _, c := range stand {
			m.open("li")
			m.element("code", c.Name)
			m.text(": " + c.why())
			m.close("li")
		}
		m.close("ul")
	}
}

func verdictText(r *Report) string {
	switch {
	case r.Verified:
		return "Every check that was made has passed, and all that the policy requires were made."
	case r.Challenge == nil:
		return "There was no nonce to hold the evidence to: it may be old, or somebody else's."
	case r.Verdict == attest.Incomplete:
		return "Nothing in the evidence is wrong, but it lacks what the policy requires."
	}
	return "The evidence must not be relied on."
}

func (m *markup) about(r *Report) {
	m.open("dl")
	if r.Evidence.File != "" {
		m.term("Evidence", r.Evidence.File)
	}
	m.term("SHA-256 of the file", fmt.Sprintf("%s, %d bytes", r.Evidence.SHA256, r.Evidence.Bytes))
	m.term("Verified at", r.Time.Format(time.RFC3339))
	if r.Challenge == nil {
		m.term("Nonce", "none")
	} else {
		m.term("Nonce", r.Challenge.Nonce)
		m.term("Audience", r.Challenge.Audience)
		if r.Challenge.Issued != nil {
			m.term("Nonce given out at", r.Challenge.Issued.Format(time.RFC3339))
		}
	}
	m.term("Hardware, as it says", kindText(r.Kind))
	m.term("Policy", r.Policy.text())
	m.close("dl")
}

func (m *markup) term(name, value string) {
	m.element("dt", name)
	m.element("dd", value, "class", "code")
}

func (m *markup) claims(r *Report) {
	m.open("div", "class", "two")
	m.open("section")
	m.element("h2", "Proven, and by whom")
	m.open("ul")
	for _, c := range r.Proven {
		m.open("li")
		m.text(c.Claim)
		m.element("span", " (by: "+c.Anchor+")", "class", "by")
		m.close("li")
	}
	if len(r.Proven) == 0 {
		m.element("li", "nothing")
	}
	m.close("ul")
	m.close("section")
	m.open("section")
	m.element("h2", "Not proven")
	m.open("ul")
	for _, c := range r.NotProven {
		m.open("li")
		m.text(c.Claim)
		m.element("span", " ("+c.Reason+" did not pass)", "class", "by")
		m.close("li")
	}
	for _, text := range neverProven() {
		m.open("li")
		m.text(text)
		m.element("span", " (no evidence of this kind shows it)", "class", "by")
		m.close("li")
	}
	m.close("ul")
	m.close("section")
	m.close("div")
}

// links writes a table for each link that has checks, in the order of the tree.
func (m *markup) links(l *link) {
	if len(l.checks) > 0 {
		m.element("h3", l.title)
		if l.detail != "" {
			m.element("p", l.detail, "class", "code")
		}
		m.open("table")
		m.header("Check", "Result", "Why, or what it proves")
		for _, c := range l.checks {
			m.check(c)
		}
		m.close("tbody")
		m.close("table")
	}
	for _, sub := range l.below {
		m.links(sub)
	}
}

func (m *markup) header(names ...string) {
	m.open("thead")
	m.open("tr")
	for _, name := range names {
		m.element("th", name, "scope", "col")
	}
	m.close("tr")
	m.close("thead")
	m.open("tbody")
}

func (m *markup) check(c Check) {
	state, word, say := "absent", "– not applicable", c.why()
	switch {
	case c.Status == attest.Pass:
		state, word, say = "pass", "✓ passed", aboutChecks()[c.Name].proves
	case c.Status == attest.Fail:
		state, word = "fail", "✗ failed"
	case c.Required:
		state, word = "fail", "✗ missing"
	}
	m.open("tr")
	m.open("td", "class", "name")
	m.element("code", c.Name)
	m.close("td")
	m.element("td", word, "class", "state s-"+state)
	m.element("td", say)
	m.close("tr")
}

func (m *markup) anchors(r *Report) {
	m.element("h2", "Trust anchors")
	if len(r.Chains) == 0 {
		m.element("p", "No certificate of the evidence leads to one.")
		return
	}
	for _, c := range r.Chains {
		m.open("h3")
		m.text(commonName(c.Anchor().Subject) + ", for ")
		m.element("code", c.Check)
		m.close("h3")
		m.open("table")
		m.header("Certificate, from the evidence to the anchor", "SHA-256", "Valid")
		for _, cert := range c.Certificates {
			m.open("tr")
			m.element("td", cert.Subject)
			m.element("td", cert.SHA256, "class", "code")
			m.element("td", cert.NotBefore.Format(time.DateOnly)+" to "+cert.NotAfter.Format(time.DateOnly))
			m.close("tr")
		}
		m.close("tbody")
		m.close("table")
	}
}

func (m *markup) facts(f *Facts) {
	if f == nil {
		return
	}
	m.element("h2", "What the evidence says")
	m.open("dl")
	m.term("VM (vmUniqueId)", f.VMID)
	m.term("Attestation key, Name", f.AKName)
	m.term("Boots and resumes", fmt.Sprintf("%d and %d", f.Reset, f.Restart))
	if f.Key != nil {
		m.term("Binding key, Name", f.Key.Name)
		m.term("Binding key, SHA-256", f.Key.SPKISHA256)
	}
	m.close("dl")
	if f.Key != nil {
		m.open("pre")
		m.lines(f.Key.PublicKey)
		m.close("pre")
	}
	m.eventLog(f)
	m.element("h3", "PCRs, bank "+f.PCRBank.Name())
	m.open("table")
	m.header("PCR", "Value")
	for _, index := range slices.SortedFunc(maps.Keys(f.PCRs), byNumber) {
		m.open("tr")
		m.element("td", index, "class", "index")
		m.element("td", f.PCRs[index], "class", "code")
		m.close("tr")
	}
	m.close("tbody")
	m.close("table")
}

func (m *markup) eventLog(f *Facts) {
	l := f.EventLog
	if l == nil {
		return
	}
	m.element("h3", "Event log")
	m.open("dl")
	m.term("Events", strconv.Itoa(l.Events))
	m.term("Secure boot, as measured", string(l.SecureBoot)+" "+l.SecureBootReason)
	for _, digest := range l.BootLoaders {
		m.term("Boot loader, SHA-256", hex.EncodeToString(digest))
	}
	for _, line := range l.CommandLines {
		m.term("Kernel command line", line.Text)
	}
	m.close("dl")
}

func byNumber(a, b string) int {
	x, _ := strconv.Atoi(a) // Facts are made with numbers
	y, _ := strconv.Atoi(b)
	return x - y
}

func (m *markup) policy(e Explanation) {
	m.element("h2", "Policy in force")
	m.element("p", e.Policy.text())
	for _, f := range e.Policy.Anchors {
		m.element("p", f.Use+": "+f.File+", SHA-256 "+f.SHA256, "class", "code")
	}
	m.open("table")
	m.header("Check", "Required", "Fails on", "Here")
	for _, c := range e.Checks {
		required := "if its part is there"
		if c.Required {
			required = "required"
		}
		m.open("tr")
		m.open("td", "class", "name")
		m.element("code", c.Check)
		m.close("td")
		m.element("td", required)
		m.element("td", c.Fails)
		m.element("td", c.Rule)
		m.close("tr")
	}
	m.close("tbody")
	m.close("table")
}

func (m *markup) footer(r *Report) {
	m.open("footer")
	m.element("p", "Of the checks of one platform (snp, tdx), those of the platform that the evidence is of count.")
	m.element("p", "This page is a record and proves nothing by itself. Whoever doubts it verifies the file with the SHA-256 "+
		r.Evidence.SHA256+" again, with the same nonce, audience, policy and time.")
	m.close("footer")
}
