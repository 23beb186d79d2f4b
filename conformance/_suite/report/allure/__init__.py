"""
Allure: how a test is labelled while it runs, results completed from the verdict, and one self-contained page.
"""

from conformance._suite.report.allure.page import generate
from conformance._suite.report.allure.results import allure_labels, complete

__all__ = ["allure_labels", "complete", "generate"]
