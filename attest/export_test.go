package attest

// ParsePublicArea reads a TPMT_PUBLIC.
func ParsePublicArea(b []byte) error {
	_, err := parsePublic(b)
	return err
}

// ParseCertify reads a TPMS_ATTEST.
func ParseCertify(b []byte) error {
	_, err := parseStatement(b, typeCertify)
	return err
}

// ParseQuote reads a TPMS_ATTEST.
func ParseQuote(b []byte) error {
	_, err := parseStatement(b, typeQuote)
	return err
}

// PlatformChecks are the names of a platform's checks.
type PlatformChecks struct{ Rows, Vouches []string }

// Platforms returns the checks of each platform by its prefix.
func Platforms() map[string]PlatformChecks {
	all := map[string]PlatformChecks{}
	for _, j := range (&verifier{}).join() {
		var rows []string
		for _, row := range j.rows {
			rows = append(rows, row.name)
		}
		all[j.prefix()] = PlatformChecks{Rows: rows, Vouches: j.vouches()}
	}
	return all
}

// RequiredOfSNP returns what a required check stands for if the evidence is of AMD SEV-SNP.
func RequiredOfSNP(name string) []string { return counterparts(name, []platform{snp{}}) }
