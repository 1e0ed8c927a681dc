package entra

// ParseAssertion lets fuzzing reach the parser. It returns what the journal would be told.
func ParseAssertion(compact string) (map[string]any, error) {
	a, err := parseAssertion(compact)
	if err != nil {
		return nil, err
	}
	return a.describe(), nil
}
