"""The script that Streamlit runs again at every click; `xraykit.app.start` serves it."""

import streamlit as st

from xraykit.app import build_page, parts, use_page


def page() -> None:
    """The whole page: both tabs are always there, so that what was uploaded to one stays."""
    st.set_page_config(page_title="xraykit", layout="wide")
    parts.banner()
    st.header("xraykit: few-shot chest X-ray classification", anchor=False)
    use, build = st.tabs([use_page.TAB, build_page.TAB], key="tab", on_change="rerun")
    with use, parts.guarded():
        use_page.show()
    with build, parts.guarded():
        build_page.show()


if __name__ == "__main__":
    page()
